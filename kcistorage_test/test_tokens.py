"""Tokens: AU-1 to AU-6."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
import warnings
from typing import Optional

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kcistorage_parts import tokens
from kcistorage_parts.tokens import REASONS, BadToken, User, bearer, may_upload, mint, new_secret, verify

PROPERTY = settings(deadline=None, max_examples=200)
SECRET = "JWT_SECRET"  # the one in the seed's example: 10 bytes, far below what RFC 7518 3.2 asks for
OTHER = "another-secret-of-the-same-server"
EMAIL = "somebody@example.com"
NOW = 1_700_000_000.0

HEADER = {"alg": "HS256", "typ": "JWT"}


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def signed(payload: bytes, header: object = HEADER, secret: str = SECRET, digest: str = "sha256") -> str:
    """A token by RFC 7515 3.1, made without the library that is under test."""
    signing_input = segment(json.dumps(header).encode()) + "." + segment(payload)
    signature = hmac.new(secret.encode(), signing_input.encode("ascii"), getattr(hashlib, digest)).digest()
    return signing_input + "." + segment(signature)


def token(claims: object, secret: str = SECRET) -> str:
    return signed(json.dumps(claims).encode(), secret=secret)


def refusal(
    text: str, secrets: tuple[str, ...] = (SECRET,), now: float = NOW, enforce_expiry: bool = True
) -> Optional[str]:
    """The reason for which a token is refused, None if it is taken."""
    try:
        verify(text, secrets, now, enforce_expiry)
    except BadToken as refused:
        return refused.reason if refused.text == "Unauthorized" else f"told too much: {refused.text}"
    return None


def test_reasons_are_words_with_a_sentence_each_and_all_can_happen() -> None:
    assert all(re.fullmatch(r"token(-[a-z]+)+", reason) and meaning for reason, meaning in REASONS.items())
    refused = {
        refusal(text)
        for text in (
            "x",
            signed(b"{}", header={"alg": "none"}),
            token({"email": EMAIL}, secret=OTHER),
            token({"email": EMAIL, "exp": NOW}),
            token({"email": EMAIL, "nbf": NOW + 1}),
            token({}),
            token({"email": "a\nb"}),
        )
    }
    assert refused | {"token-missing"} == set(REASONS)


# ---- AU-1


@pytest.mark.parametrize(
    "authorization",
    ["Bearer a.b.c", "bearer a.b.c", "Token a.b.c", "JWT\ta.b.c", "  Bearer   a.b.c  ", "a.b.c", " a.b.c"],
)
def test_any_scheme_and_none(authorization: str) -> None:
    """AU-1: kernelci-core sends its credential as it is, others with a scheme word of their own."""
    assert bearer(authorization) == "a.b.c"


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, "token-missing"),
        ("", "token-missing"),
        (" \t ", "token-missing"),
        ("Bearer a.b.c d", "token-malformed"),
        ("Bearer a.b.c, Bearer d.e.f", "token-malformed"),
    ],
)
def test_no_token(authorization: Optional[str], reason: str) -> None:
    with pytest.raises(BadToken) as refused:
        bearer(authorization)
    assert (refused.value.reason, refused.value.text) == (reason, "Unauthorized")


def test_a_scheme_word_alone_is_no_token() -> None:
    assert refusal(bearer("Bearer")) == "token-malformed"


# ---- AU-2


@pytest.mark.parametrize("secrets", [(SECRET,), (SECRET, OTHER), (OTHER, SECRET), ("", SECRET)])
def test_any_of_the_secrets(secrets: tuple[str, ...]) -> None:
    """AU-2: jwt_secret first, then unified_secret."""
    assert verify(token({"email": EMAIL}), secrets, NOW) == EMAIL


@pytest.mark.parametrize("secrets", [(), ("",), ("", ""), (OTHER,), (SECRET.lower(),), (SECRET + "\n",)])
def test_none_of_the_secrets(secrets: tuple[str, ...]) -> None:
    assert refusal(token({"email": EMAIL}), secrets) == "token-signature"


def test_an_empty_secret_signs_nothing() -> None:
    """AU-2: upstream accepts an empty key."""
    assert refusal(token({"email": EMAIL}, secret=""), ("",)) == "token-signature"
    with pytest.raises(ValueError, match="empty secret"):
        mint(EMAIL, "", NOW)


@pytest.mark.parametrize(
    "alg", ["none", "None", "HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA", "hs256", "", None]
)
def test_hs256_only(alg: Optional[str]) -> None:
    """AU-2, RFC 8725 3.1: signed with the right secret, and yet refused."""
    assert refusal(signed(b'{"email": "a@b"}', header={"alg": alg})) == "token-algorithm"


def test_no_algorithm_and_no_signature() -> None:
    assert refusal(signed(b'{"email": "a@b"}', header={"typ": "JWT"})) == "token-algorithm"
    assert refusal(signed(b'{"email": "a@b"}', header={"alg": "none"}).rpartition(".")[0] + ".") == "token-algorithm"
    assert refusal(signed(b'{"email": "a@b"}').rpartition(".")[0] + ".") == "token-signature"


def test_a_signature_of_another_hash() -> None:
    assert refusal(signed(b'{"email": "a@b"}', digest="sha512")) == "token-signature"


@pytest.mark.parametrize(
    "secret",
    [
        "x",
        "späße",
        '{"kty": "oct", "k": "AA"}',
        '["a", 1]',
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "ssh-rsa AAAA",
        "a" * 4096,
    ],
)
def test_secrets_are_raw_text(secret: str) -> None:
    """AU-2: short, long, and such as the library takes for keys of another kind."""
    assert verify(token({"email": EMAIL}, secret), (secret,), NOW) == EMAIL
    assert verify(mint(EMAIL, secret, NOW), (secret,), NOW) == EMAIL


def test_short_secrets_do_not_warn_with_each_request() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert verify(mint(EMAIL, "x", NOW), ("y", "x"), NOW) == EMAIL


# ---- AU-3: the e-mail


@pytest.mark.parametrize("email", [None, "", " ", "\u3000", 1, True, ["a@b"], {"a": "b"}])
def test_no_email(email: object) -> None:
    assert refusal(token({"email": email})) == "token-no-email"


def test_no_claim_email() -> None:
    assert refusal(token({"sub": EMAIL, "Email": EMAIL})) == "token-no-email"


@pytest.mark.parametrize("email", ["a\nb", "a\r", "\0", "a\x7f", "a\x85b", "a\u2028b", "a\u2029b", "a\ud800", "\udfff"])
def test_an_email_that_no_log_line_could_hold(email: str) -> None:
    assert refusal(token({"email": email})) == "token-bad-email"
    with pytest.raises(ValueError, match="control character"):
        mint(email, SECRET, NOW)


@pytest.mark.parametrize("email", ["a@b", " a b ", "ü€😀@example.com", 'a"b\\c', "x" * 2000])
def test_the_email_arrives_as_it_stands(email: str) -> None:
    assert verify(token({"email": email}), (SECRET,), NOW) == email
    assert verify(mint(email, SECRET, NOW), (SECRET,), NOW) == email


@pytest.mark.parametrize(
    "ignored",
    [
        {"aud": "kernelci"},
        {"aud": ["a", "b"]},
        {"aud": 1},
        {"aud": None},
        {"aud": [1, None]},
        {"sub": 12},
        {"jti": 7},
        {"iss": ["x"]},
        {"iat": "yesterday"},
        {"iat": NOW + 10**9},
        {"permissions": {"deep": [1, [2, [3]]]}},
    ],
)
def test_all_else_is_ignored(ignored: dict[str, object]) -> None:
    """AU-3: the library would refuse most of these."""
    assert verify(token({"email": EMAIL, **ignored}), (SECRET,), NOW) == EMAIL


# ---- AU-3: the time


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW + 1}, None),
        ({"exp": NOW + 0.5}, None),
        ({"exp": NOW}, "token-expired"),
        ({"exp": NOW - 1}, "token-expired"),
        ({"exp": 0}, "token-expired"),
        ({"exp": -1}, "token-expired"),
        ({"exp": 2**53}, None),
        ({"nbf": NOW}, None),
        ({"nbf": NOW - 1}, None),
        ({"nbf": -(2**53)}, None),
        ({"nbf": NOW + 0.5}, "token-not-yet"),
        ({"nbf": NOW - 10, "exp": NOW + 10}, None),
        ({"nbf": NOW + 10, "exp": NOW - 10}, "token-expired"),
    ],
)
def test_times(claims: dict[str, object], reason: Optional[str]) -> None:
    """AU-3, RFC 7519 4.1.4: valid before `exp`, not at it. No leeway."""
    assert refusal(token({"email": EMAIL, **claims})) == reason
    assert refusal(token({"email": EMAIL, **claims}), enforce_expiry=False) is None


def test_times_count_unless_told_otherwise() -> None:
    with pytest.raises(BadToken, match="The time named by exp has come"):
        verify(token({"email": EMAIL, "exp": NOW}), (SECRET,), NOW)


@pytest.mark.parametrize("claim", ["exp", "nbf"])
@pytest.mark.parametrize(
    "value",
    ["null", "true", "false", '"1900000000"', "[]", "{}", "NaN", "Infinity", "-Infinity", "1e999", str(2**53 + 1)],
)
def test_times_that_are_none(claim: str, value: str) -> None:
    text = signed(f'{{"email": "{EMAIL}", "{claim}": {value}}}'.encode())
    assert refusal(text) == "token-malformed"
    assert refusal(text, enforce_expiry=False) is None


def test_a_token_expires_though_it_was_remembered() -> None:
    text = token({"email": EMAIL, "exp": NOW + 1})
    assert [refusal(text, now=NOW + later) for later in (0, 0.9, 1, 2, 0)] == [None, None, *["token-expired"] * 2, None]


def test_a_refusal_is_not_remembered_for_other_secrets() -> None:
    """A secret may be added while the server runs; a token of a removed one must not outlive it."""
    text = token({"email": EMAIL})
    assert [refusal(text, secrets) for secrets in ((OTHER,), (SECRET,), (OTHER,))] == [
        "token-signature",
        None,
        "token-signature",
    ]


def test_only_valid_tokens_are_remembered() -> None:
    tokens._signed_claims.cache_clear()
    for number in range(10):
        assert refusal(token({"email": EMAIL, "n": number}, secret=OTHER)) == "token-signature"
        assert refusal(f"{number}.b.c") == "token-malformed"
    assert tokens._signed_claims.cache_info().currsize == 0
    for number in range(tokens.KEPT_TOKENS + 10):
        assert refusal(token({"email": EMAIL, "n": number})) is None
    assert tokens._signed_claims.cache_info().currsize == tokens.KEPT_TOKENS


# ---- Malformed


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "Bearer",
        "ü.b.c",
        "\ud800.b.c",
        "a.b.c\0",
        signed(b"{}").replace(".", " "),
        signed(b"not json"),
        signed(b""),
        signed(b"[]"),
        signed(b'"email"'),
        signed(b"null"),
        signed(b'\xff{"email": "a@b"}'),
        signed('{"email": "a@b"}'.encode("utf-16")),
        signed(b"[" * 4000),
        signed(b"{}", header=[]),
        signed(b"{}", header="HS256"),
        signed(b"{}", header=None),
        segment(b"[" * 4000) + "..",
        segment(b"\xff") + "..",
        signed(b"{}", header={"alg": "HS256", "kid": 7}),
        signed(b"{}", header={"alg": "HS256", "crit": ["x"], "x": 1}),
        signed(b"{}", header={"alg": "HS256", "crit": ["b64"], "b64": False}),
    ],
)  # fmt: skip
def test_malformed(text: str) -> None:
    assert refusal(text) == "token-malformed"


def test_size() -> None:
    """8 KiB and no byte more, whatever signed it."""
    padded = [token({"email": EMAIL, "pad": "x" * pad}) for pad in range(6000, 6060)]
    assert {len(text) <= 8192 for text in padded} == {True, False}
    assert [refusal(text) for text in padded] == [None if len(text) <= 8192 else "token-malformed" for text in padded]


@PROPERTY
@given(st.one_of(st.text(max_size=80), st.text(alphabet=".eyJ0-_=", max_size=60), st.binary().map(segment)))
def test_garbage(text: str) -> None:
    """Invariant: whatever is sent instead of a token is refused, and by nothing but a BadToken."""
    assert refusal(text) in REASONS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@PROPERTY
@given(
    st.one_of(
        json_values, st.dictionaries(st.sampled_from(["email", "exp", "nbf", "aud", "sub", "iat", "jti"]), json_values)
    ),
    st.one_of(json_values, st.fixed_dictionaries({"alg": json_values, "kid": json_values, "crit": json_values})),
)
def test_signed_garbage(claims: object, header: object) -> None:
    """Invariant: a valid signature under any claims and header yields an e-mail or a BadToken, never another error."""
    for text in (token(claims), signed(json.dumps(claims).encode(), header=header)):
        if refusal(text) is None:
            assert isinstance(claims, dict)
            assert verify(text, (SECRET,), NOW) == claims["email"]


@PROPERTY
@given(st.data())
def test_one_changed_character(data: st.DataObject) -> None:
    """Invariant: a token with any one character changed, added or missing names nobody else."""
    text = token({"email": EMAIL})
    at = data.draw(st.integers(0, len(text) - 1))
    middle = data.draw(st.sampled_from(["", "A", "B", "-", "_", ".", "=", text[at] * 2]))
    assume(middle != text[at])
    changed = text[:at] + middle + text[at + 1 :]
    # Older PyJWT tolerates "=" and the unused bits of the last digit: other writings of the very same token.
    assert refusal(changed) is not None or verify(changed, (SECRET,), NOW) == EMAIL


# ---- Minting


@PROPERTY
@given(st.emails(), st.floats(1e-6, 36_500), st.floats(0, 4e9))
@example(EMAIL, 1e-6, 0.5)
def test_what_is_minted_is_valid_as_long_as_it_was_meant_to_be(email: str, days: float, now: float) -> None:
    """Invariant: a minted token is valid at once and until its end, to the second above, and never after."""
    text = mint(email, SECRET, now, days)
    ends = math.ceil(now + days * 86_400)
    assert refusal(text, now=now) is None
    assert refusal(text, now=ends - 0.5) is None
    assert refusal(text, now=ends) == "token-expired"
    assert verify(text, (SECRET,), now) == email


def test_what_is_minted_holds_nothing_else() -> None:
    """AU-3: just `email`; with an end, `exp` as a whole number."""

    def claims(text: str) -> object:
        return json.loads(base64.urlsafe_b64decode(text.split(".")[1] + "=="))

    assert claims(mint(EMAIL, SECRET, NOW)) == {"email": EMAIL}
    assert mint(EMAIL, SECRET, NOW) == mint(EMAIL, SECRET, NOW + 9)
    assert claims(mint(EMAIL, SECRET, NOW, 30)) == {"email": EMAIL, "exp": 1_702_592_000}
    assert type(json.loads(json.dumps(claims(mint(EMAIL, SECRET, NOW, 0.5))))["exp"]) is int


def test_what_is_minted_is_what_another_implementation_mints() -> None:
    """RFC 7515 A.1: the same octets as a signature made by hand."""
    by_hand = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." + segment(b'{"email":"somebody@example.com"}')
    signature = hmac.new(SECRET.encode(), by_hand.encode(), hashlib.sha256).digest()
    assert mint(EMAIL, SECRET, NOW) == f"{by_hand}.{segment(signature)}"


@pytest.mark.parametrize("days", [0, -1, math.nan, math.inf, -math.inf, 1e300, 2**53 / 86_400])
def test_ends_that_are_none(days: float) -> None:
    with pytest.raises(ValueError, match="cannot be valid"):
        mint(EMAIL, SECRET, NOW, days)


@pytest.mark.parametrize("email", ["", "  "])
def test_nobody_gets_no_token(email: str) -> None:
    with pytest.raises(ValueError, match="email"):
        mint(email, SECRET, NOW)


def test_an_email_too_long_for_a_token() -> None:
    assert verify(mint("x" * 6000, SECRET, NOW), (SECRET,), NOW) == "x" * 6000
    with pytest.raises(ValueError, match="too long"):
        mint("x" * 6200, SECRET, NOW)


def test_new_secrets() -> None:
    """RFC 7518 3.2: 256 bits, each time others."""
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch("[0-9a-f]{64}", secret) for secret in secrets)


# ---- AU-6


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("allowed/path/x", True),
        ("/allowed/path/x", True),
        ("allowed/path", True),
        ("allowed/path-2/x", True),
        ("allowed/pat", False),
        ("Allowed/path/x", False),
        ("x/allowed/path/x", False),
        ("second/x", True),
        ("third/x", True),
        ("", False),
    ],
)
def test_prefixes(key: str, allowed: bool) -> None:
    """AU-6: plain text prefixes, the leading slash of either side ignored, entries of one name add up."""
    users = [
        User("else@example.com", ("",)),
        User(EMAIL, ("/allowed/path", "//second/")),
        User(EMAIL, ("third",)),
        User(EMAIL, ()),
    ]
    assert may_upload(EMAIL, key, users) is allowed
    assert may_upload("else@example.com", key, users) is True
    assert may_upload("nobody@example.com", key, users) is False
    assert may_upload(EMAIL.upper(), key, users) is False
    assert may_upload("nobody@example.com", key, []) is True


@pytest.mark.parametrize("prefix", ["", "/", "//"])
def test_an_empty_prefix_covers_all(prefix: str) -> None:
    assert may_upload(EMAIL, "any/thing", [User(EMAIL, (prefix,))])


paths = st.text(alphabet="ab/", max_size=6)


@PROPERTY
@given(paths, st.lists(st.tuples(st.sampled_from("xy"), st.lists(paths, max_size=3)), max_size=4))
def test_permission_is_a_prefix(key: str, entries: list[tuple[str, list[str]]]) -> None:
    """Invariant: allowed if and only if nobody is listed, or one of the user's prefixes begins the key."""
    users = [User(name, tuple(prefixes)) for name, prefixes in entries]
    mine = [prefix.lstrip("/") for name, prefixes in entries if name == "x" for prefix in prefixes]
    bare = key.lstrip("/")
    assert may_upload("x", key, users) == (not entries or any(bare[: len(prefix)] == prefix for prefix in mine))
