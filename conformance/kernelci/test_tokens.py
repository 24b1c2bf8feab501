"""Tokens and permissions: AU-*."""

from __future__ import annotations

import time

from conformance.core import expect
from conformance.core.registry import clause
from conformance.core.wire import Response
from conformance.kernelci import tokens
from conformance.kernelci.client import FORM_TYPE, Client, field, file, form

CHECKAUTH = "/v1/checkauth"


def _asked(kci: Client, credential: str) -> Response:
    return kci.request("GET", CHECKAUTH, [("Authorization", credential)])


def _accepted(kci: Client, credential: str, context: str) -> None:
    expect.status(_asked(kci, credential), 200, context=context)


def _refused(kci: Client, token: str, context: str) -> None:
    """Refused where it is checked and where it matters."""
    expect.status(_asked(kci, f"Bearer {token}"), 401, context=context)
    key = kci.key("refused.txt")
    expect.status(kci.upload(key, b"x", token=token), 401, context=f"upload: {context}")
    kci.has_not(key, f"after the refused upload: {context}")


@clause("AU-01a", "token.bearer", writes=False)
def test_bearer(kci: Client) -> None:
    """The usual form."""
    _accepted(kci, f"Bearer {kci.token}", "Bearer")
    expect.status(_asked(kci, "Bearer not.a.token"), 401, context="Bearer, wrong token")


@clause("AU-01b", "token.scheme", writes=False)
def test_other_scheme(kci: Client) -> None:
    """Only the token counts."""
    for scheme in ("Token", "JWT", "bearer"):
        _accepted(kci, f"{scheme} {kci.token}", f"scheme {scheme}")
        expect.status(_asked(kci, f"{scheme} not.a.token"), 401, context=f"scheme {scheme}, wrong token")


@clause("AU-01c", "token.bare", writes=False)
def test_bare(kci: Client) -> None:
    """As kernelci-core sends it."""
    _accepted(kci, kci.token, "no scheme word")
    expect.status(_asked(kci, "not.a.token"), 401, context="no scheme word, wrong token")


@clause("AU-02a", "token.tampered")
def test_tampered(kci: Client) -> None:
    """One bit of the signature, or one claim, away from a good token."""
    _accepted(kci, f"Bearer {kci.token}", "the true token")
    head, claims, signature = tokens.split(kci.token)
    flipped = bytearray(tokens.decode(signature))
    flipped[0] ^= 1
    other = {**tokens.claims_of(kci.token), "email": "somebody@else.example"}
    swapped = tokens.unsigned(other, "HS256", signature)
    _refused(kci, f"{head}.{claims}.{tokens.encode(bytes(flipped))}", "one bit of the signature changed")
    _refused(kci, swapped, "another email under the same signature")
    _refused(kci, f"{head}.{claims}.", "no signature")


@clause("AU-02b", "token.alg.none")
def test_alg_none(kci: Client) -> None:
    """The oldest fault of JWT libraries."""
    _accepted(kci, f"Bearer {kci.token}", "the true token")
    claims = tokens.claims_of(kci.token)
    signature = tokens.split(kci.token)[2]
    for spelling in ("none", "None", "nOnE"):
        _refused(kci, tokens.unsigned(claims, spelling), f"alg {spelling}")
        _refused(kci, tokens.unsigned(claims, spelling, signature), f"alg {spelling} with a signature")


@clause("AU-02c", "token.alg.other")
def test_alg_other(kci: Client) -> None:
    """The right secret under another algorithm."""
    claims = {"email": kci.email}
    _accepted(kci, f"Bearer {kci.minted(claims)}", "HS256")
    for algorithm in ("HS384", "HS512"):
        _refused(kci, kci.minted(claims, algorithm), algorithm)


@clause("AU-02d", "token.secret.empty")
def test_empty_secret(kci: Client) -> None:
    """A server without a secret must not mean one that is empty."""
    _accepted(kci, f"Bearer {kci.token}", "the true token")
    _refused(kci, tokens.mint("", tokens.claims_of(kci.token)), "signed with the empty secret")


@clause("AU-03a", "token.email")
def test_email(kci: Client) -> None:
    """A token that names nobody."""
    _accepted(kci, f"Bearer {kci.minted({'email': kci.email})}", "with an email")
    for claims in ({}, {"email": ""}, {"email": 7}, {"email": None}, {"email": [kci.email]}):
        _refused(kci, kci.minted(dict(claims)), f"claims {claims}")


@clause("AU-03b", "token.aud", writes=False)
def test_audience(kci: Client) -> None:
    """Other KernelCI services put an audience into the same token."""
    for audience in ("storage", ["a", "b"], []):
        _accepted(kci, f"Bearer {kci.minted({'email': kci.email, 'aud': audience})}", f"aud {audience!r}")
    expect.status(_asked(kci, "Bearer not.a.token"), 401, context="a wrong token")


@clause("AU-03c", "token.expired", needs=("expiry",))
def test_expired(kci: Client) -> None:
    """A token of an hour ago, and the same with an hour to go."""
    expired = kci.run.options.secrets.get("expired")
    if not expired:
        now = int(time.time())
        _accepted(kci, f"Bearer {kci.minted({'email': kci.email, 'exp': now + 3600})}", "exp in an hour")
        expired = kci.minted({"email": kci.email, "exp": now - 3600})
    _accepted(kci, f"Bearer {kci.token}", "the write token")
    _refused(kci, expired, "exp an hour ago")


@clause("AU-03d", "token.not-yet", needs=("expiry",))
def test_not_before(kci: Client) -> None:
    """A token of the next hour, and of the last."""
    now = int(time.time())
    _accepted(kci, f"Bearer {kci.minted({'email': kci.email, 'nbf': now - 3600})}", "nbf an hour ago")
    _refused(kci, kci.minted({"email": kci.email, "nbf": now + 3600}), "nbf in an hour")


@clause("AU-04a", "checkauth.valid", writes=False)
def test_checkauth(kci: Client) -> None:
    """Says whose token it is."""
    expect.text(expect.status(_asked(kci, f"Bearer {kci.token}"), 200), f"Authorized: {kci.email}")


def _unauthorised(kci: Client) -> tuple[Response, ...]:
    expect.status(kci.get("/"), 200, context="the twin that needs no token")
    return (kci.get(CHECKAUTH), _asked(kci, "Bearer not.a.token"), _asked(kci, "Bearer"), _asked(kci, ""))


@clause("AU-04b", "checkauth.invalid", writes=False)
def test_checkauth_invalid(kci: Client) -> None:
    """No token, a wrong one, an empty one."""
    for response in _unauthorised(kci):
        expect.text(expect.status(response, 401), "Unauthorized")


@clause("AU-04c", "checkauth.challenge", writes=False)
def test_checkauth_challenge(kci: Client) -> None:
    """A 401 says how to do better."""
    for response in _unauthorised(kci):
        value = expect.header(expect.status(response, 401), "WWW-Authenticate")
        expect.equal(value.split(" ")[0].lower(), "bearer", "the scheme of WWW-Authenticate")


@clause("AU-05a", "upload.unauthorised")
def test_unauthorised_upload(kci: Client) -> None:
    """The upload that works with the token, without it and with a wrong one."""
    key = kci.key("unauthorised.txt")
    body = form(field("path", kci.folder), file("unauthorised.txt", b"x"))
    for route in ("/upload", "/v1/file"):
        expect.status(kci.request("POST", route, [FORM_TYPE], body), 401, context=f"{route} without a token")
        response = kci.request("POST", route, [FORM_TYPE, ("Authorization", "Bearer not.a.token")], body)
        expect.status(response, 401, context=f"{route} with a wrong token")
    kci.has_not(key, "after the refused uploads")
    expect.status(kci.upload(key, b"x"), 200, context="the same with the token")


@clause("AU-05b", "upload.unauthorised.no-form", writes=False)
def test_unauthorised_no_form(kci: Client) -> None:
    """Who may not upload is told so, whatever was sent."""
    bodies = ((b"", None), (b"not a form", "text/plain"), (b"{}", "application/json"), (b"--x", "multipart/form-data"))
    for body, kind in bodies:
        headers = [] if kind is None else [("Content-Type", kind)]
        expect.status(kci.request("POST", "/v1/file", headers, body), 401, context=f"{kind} without a token")
    response = kci.request("POST", "/v1/file", [kci.authorised(), ("Content-Type", "text/plain")], b"not a form")
    expect.status(response, 400, 415, context="the same with a token")


@clause("AU-05c", "upload.unauthorised.early", writes=False, direct=True)
def test_unauthorised_early(kci: Client) -> None:
    """The head is enough to refuse."""
    connection = kci.connection()
    connection.send(kci.head("POST", "/v1/file", [FORM_TYPE, ("Content-Length", str(1 << 20))]) + b"--")
    early = connection.answered_within(kci.patience.ceiling("early"))
    expect.that(early, "an answer before the body was sent", "none")
    expect.status(connection.receive("POST"), 401)


# ---------------------------------------------------------------------------------------------------- permissions


class Limited:
    """The user that may only write under one prefix, and the client that speaks for it."""

    def __init__(self, kci: Client) -> None:
        self.kci = kci
        self.token = kci.secret("limited", "a token limited to a prefix (--limited-token-env)")
        self.prefix = kci.given("limited_prefix", "--limited-prefix").strip("/")
        self.folder = f"{self.prefix}/{kci.folder}"

    def sent(self, path: str, filename: str) -> Response:
        return self.kci.post(field("path", path), file(filename, b"x"), token=self.token)


@clause("AU-06a", "permission.inside")
def test_inside(kci: Client) -> None:
    """Inside, with and without a leading /."""
    user = Limited(kci)
    expect.status(user.sent(user.folder, "a.txt"), 200, context="inside the prefix")
    expect.status(user.sent("/" + user.folder, "b.txt"), 200, context="with a leading /")
    kci.has(f"{user.folder}/b.txt", b"x")


@clause("AU-06b", "permission.outside")
def test_outside(kci: Client) -> None:
    """Outside, and the same inside."""
    user = Limited(kci)
    expect.status(user.sent(user.folder, "a.txt"), 200, context="inside the prefix")
    response = expect.status(user.sent(kci.folder, "outside.txt"), 403, context="outside the prefix")
    claims = tokens.claims_of(user.token)
    expect.that(
        response.text.startswith(f"User {claims.get('email')} has no upload permissions for path "),
        "User <email> has no upload permissions for path <path>",
        response.text[:120],
    )
    kci.has_not(kci.key("outside.txt"))


@clause("AU-06c", "permission.key-not-field")
def test_key_not_field(kci: Client) -> None:
    """The key decides: a filename may lead into the prefix, and spelling does not lead around it."""
    user = Limited(kci)
    expect.status(user.sent("", f"{user.folder}/c.txt"), 200, context="empty path, the filename holds the prefix")
    expect.status(user.sent(f"./{user.folder}//", "d.txt"), 200, context="the same key in another spelling")
    outside = f"{kci.folder}/{user.prefix}"
    expect.status(user.sent("", f"{outside}/e.txt"), 403, context="empty path, the filename leads outside")
    expect.status(user.sent(f"{user.prefix}/../{kci.folder}", "f.txt"), 400, 403, context="out by ..")
    kci.has_not(f"{outside}/e.txt")
    kci.has_not(f"{kci.folder}/f.txt")


@clause("AU-06d", "permission.plain-prefix")
def test_plain_prefix(kci: Client) -> None:
    """The prefix is no folder."""
    user = Limited(kci)
    expect.status(user.sent(f"{user.prefix}-2/{kci.folder}", "g.txt"), 200, context=f"under {user.prefix}-2")
    expect.status(user.sent(f"x{user.prefix}/{kci.folder}", "g.txt"), 403, context="the prefix is not in front")
