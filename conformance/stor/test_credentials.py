"""Credentials, and the order of the checks of a POST: SO-3."""

from __future__ import annotations

import base64

from conformance.core import expect
from conformance.core.registry import clause
from conformance.core.wire import Connection, Headers
from conformance.stor.client import EXPECT, Client, path_of, sha256


def _basic(raw: bytes) -> str:
    return "Basic " + base64.b64encode(raw).decode()


def _control(stor: Client) -> None:
    """The twin of every refusal: the right credentials, and nothing else is otherwise."""
    data = stor.fresh("twin")
    expect.status(stor.store(data), 201, context="with the right credentials")
    stor.has(data)


def _refused(stor: Client, cases: dict[str, Headers], *statuses: int) -> None:
    for name, headers in cases.items():
        data = stor.fresh(name)
        response = stor.request("POST", path_of(data), headers, data)
        expect.status(response, *statuses, context=name)
        stor.has_not(data, f"after a POST with {name}")


@clause("SO-03a", "auth.refused")
def test_refused(stor: Client) -> None:
    """None, another user, another password, either of them only begun or gone too far."""
    _control(stor)
    user, _, password = stor.credentials.partition(":")
    pairs = {
        "another password": f"{user}:{password}x",
        "a password that is begun": f"{user}:{password[:-1]}",
        "no password": f"{user}:",
        "another user": f"{user}x:{password}",
        "a user that is begun": f"{user[:-1]}:{password}",
        "no user": f":{password}",
        "the other case": f"{user}:{password}".swapcase(),
        "a blank before": f" {user}:{password}",
        "a blank behind": f"{user}:{password} ",
        "a line behind": f"{user}:{password}\n",
        "both the wrong way round": f"{password}:{user}",
        "nobody at all": ":",
    }
    wrong = {name: pair for name, pair in pairs.items() if pair != stor.credentials}
    cases: dict[str, Headers] = {name: [stor.authorised(pair)] for name, pair in wrong.items()}
    _refused(stor, {"no credentials": [], **cases}, 401)


@clause("SO-03b", "auth.malformed")
def test_malformed(stor: Client) -> None:
    """What base64, colons and headers can be made of."""
    _control(stor)
    right = stor.credentials.encode()
    user = right.partition(b":")[0]
    coded = base64.b64encode(right).decode()
    values = {
        "an empty header": "",
        "the scheme alone": "Basic",
        "the scheme and a blank": "Basic ",
        "no base64": "Basic !!!!",
        "one digit of base64": "Basic A",
        "base64 of nothing": "Basic ====",
        "no colon": _basic(user),
        "a NUL behind": _basic(right + b"\0"),
        "bytes that are no UTF-8": _basic(b"\xff\xfe:\xfd"),
        "bytes that are no ASCII": "Basic \xe4\xf6\xfc",
        "the pair in clear": f"Basic {stor.credentials}",
        "another scheme": f"Bearer {coded}",
        "no scheme": coded,
        "a scheme that begins alike": f"Basics {coded}",
        "scheme and pair in one word": f"Basic{coded}",
        "a second word": f"Basic {coded} {coded}",
        "20,000 digits": "Basic " + "QUJD" * 5000,
    }
    _refused(stor, {name: [("Authorization", value)] for name, value in values.items()}, 401, 400, 431)
    wrong = ("Authorization", _basic(b"wrong:wrong"))
    _refused(stor, {"wrong and right": [wrong, stor.authorised()]}, 401, 400)


@clause("SO-03c", "auth.challenge")
def test_challenge(stor: Client) -> None:
    """Without it a client does not know what to send."""
    data = stor.fresh("object")
    for headers in ([], [stor.authorised("wrong:wrong")]):
        response = expect.status(stor.request("POST", path_of(data), headers, data), 401)
        value = expect.header(response, "WWW-Authenticate")
        expect.equal(value.partition(" ")[0].lower(), "basic", "the scheme of WWW-Authenticate")


@clause("SO-03d", "auth.realm")
def test_realm(stor: Client) -> None:
    """What a browser shows the user."""
    data = stor.fresh("object")
    response = expect.status(stor.request("POST", path_of(data), [], data), 401)
    value = expect.header(response, "WWW-Authenticate")
    expect.that('realm="' in value.lower(), 'realm="…"', value)


@clause("SO-03e", "auth.scheme")
def test_scheme(stor: Client) -> None:
    """As clients write it."""
    coded = stor.authorised()[1].partition(" ")[2]
    for scheme in ("Basic", "basic", "BASIC", "bAsIc"):
        data = stor.fresh(scheme)
        response = stor.request("POST", path_of(data), [("Authorization", f"{scheme} {coded}")], data)
        expect.status(response, 201, context=scheme)
        stor.has(data, scheme)


# ---------------------------------------------------------------------------------------------------------- order


@clause("SO-03f", "order.name-first")
def test_name_first(stor: Client) -> None:
    """Both are wrong; then only one of them."""
    data = stor.fresh("object")
    for name in (sha256(data)[:-1], "no-sha256"):
        for headers in ([], [stor.authorised("wrong:wrong")]):
            expect.status(stor.request("POST", f"/{name}", headers, data), 412, context=f"POST /{name}")
    expect.status(stor.request("POST", path_of(data), [], data), 401, context="the good name")


@clause("SO-03g", "order.credentials-second")
def test_credentials_second(stor: Client) -> None:
    """The object is there, and who asks may not write."""
    data = stor.fresh("object")
    stor.stored(data)
    for headers in ([], [stor.authorised("wrong:wrong")]):
        expect.status(stor.request("POST", path_of(data), headers, data), 401)
    expect.status(stor.store(data), 200, context="with the right credentials")


@clause("SO-03h", "order.stored-third")
def test_stored_third(stor: Client) -> None:
    """Other bytes, no bytes, and more of them; the object stays what it is."""
    data = stor.fresh("object")
    stor.stored(data)
    for name, body in {"other": stor.fresh("other"), "no": b"", "more": data + b"x"}.items():
        expect.status(stor.post(path_of(data), body), 200, context=f"{name} bytes")
        stor.has(data, f"after {name} bytes")
    other = stor.fresh("other")
    expect.status(stor.post(path_of(other), data), 412, context="the same bytes under a name that is not stored")


def _early(stor: Client, connection: Connection, data: bytes, status: int, context: str) -> None:
    """The final answer to a head whose body never comes."""
    connection.send(data)
    early = connection.answered_within(stor.patience.ceiling("early"))
    expect.that(early, f"{status} before the body", "nothing", context)
    expect.equal(connection.receive_one_head().status, status, f"{context}: the first answer")
    connection.close()


@clause("SO-03i", "order.early", direct=True)
def test_early(stor: Client) -> None:
    """A gigabyte is announced, and none of it sent."""
    path, gigabyte = path_of(stor.fresh("object")), ("Content-Length", str(1 << 30))
    for more in ([gigabyte], [gigabyte, EXPECT]):
        what = "with Expect" if EXPECT in more else "without Expect"
        _early(stor, stor.connection(), stor.post_head("/no-sha256", more), 412, f"no SHA-256, {what}")
        _early(stor, stor.connection(), stor.head("POST", path, more), 401, f"no credentials, {what}")
