"""Connections and robustness: DL-8, RB-*. What RFC 9112 owes to every peer and every proxy in front.

Behind each message that must not be understood stands the client's `refusal`: its answer would tell that it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from conformance.core import expect
from conformance.core.registry import shared
from conformance.core.verdict import Untestable
from conformance.core.wire import Closed, Connection, NoAnswer
from conformance.web.client import Client


def _alive(web: Client) -> None:
    expect.status(web.get("/"), 200, context="the next client")


def _raw(web: Client, data: bytes) -> Connection:
    connection = web.connection()
    connection.send(data)
    return connection


def _ended(web: Client, connection: Connection, context: str) -> None:
    """Nothing more comes, and the connection ends."""
    early = web.patience.ceiling("early")
    if not connection.answered_within(early):
        raise expect.Violation("the end of the connection", f"still open after {early:g} s", context)
    expect.that(connection.ended_within(0.01), "the end of the connection", "another answer", context)


def _one_refusal(web: Client, data: bytes, context: str, *statuses: int) -> None:
    """The message is refused once, or the connection closed, and what follows it is not a request."""
    connection = _raw(web, data + web.head(web.refusal.method, web.refusal.path))
    try:
        response = connection.receive("POST")
    except Closed:
        return
    expect.status(response, *statuses, context=context)
    _ended(web, connection, f"after {context}")


# ---------------------------------------------------------------------------------------------------- connections


@shared("connection.keep-alive")
def test_keep_alive(web: Client) -> None:
    """One connection for all that a client does."""
    storing = web.storing("kept.txt")
    get = web.head("GET", storing.path)
    steps: Sequence[tuple[str, bytes, int]] = (
        ("GET", web.head("GET", "/"), 200),
        ("GET", web.head("GET", web.missing()), 404),
        ("POST", storing.sized(), storing.status),
        ("GET", get, 200),
        ("HEAD", web.head("HEAD", storing.path), 200),
        (web.refusal.method, web.head(web.refusal.method, web.refusal.path), web.refusal.status),
        ("GET", get, 200),
    )
    connection = web.connection()
    closed: list[str] = []
    for number, (method, data, status) in enumerate(steps):
        connection.send(data)
        response = expect.status(connection.receive(method), status, context=f"request {number + 1}, {method}")
        if response.closes:
            closed.append(f"request {number + 1}")
            connection = web.connection()
    if len(closed) == len(steps):
        raise Untestable("every answer says Connection: close, which RFC 9112 9.6 leaves to the server")
    expect.equal(closed, [], "requests after which the connection was closed")


@shared("connection.pipelining")
def test_pipelining(web: Client) -> None:
    """Nine requests at once, a body among them."""
    objects = [f"object {number} of {web.folder}".encode() for number in range(4)]
    paths = [web.stored_as(str(number), data) for number, data in enumerate(objects)]
    storing = web.storing("piped")
    gets = b"".join(web.head("GET", path) for path in paths)
    connection = _raw(web, gets + storing.sized() + gets)
    for place in (0, 1, 2, 3, None, 0, 1, 2, 3):
        status = storing.status if place is None else 200
        response = expect.status(connection.receive(), status, context=f"pipelined, place {place}")
        if place is not None:
            expect.body(response, objects[place], f"place {place}")
        if response.closes:
            raise Untestable("the server closes the connection, which ends the pipeline (RFC 9112 9.3.2)")
    expect.body(expect.status(web.get(storing.path), 200), storing.content)


@shared("connection.http10", writes=False)
def test_http10(web: Client) -> None:
    """As nginx asks its backend unless it is told otherwise."""
    sample = web.sample()
    connection = _raw(web, f"GET {web.run.options.target.prefix}{sample.path} HTTP/1.0\r\n\r\n".encode())
    response = expect.status(connection.receive(), 200)
    expect.that(response.framing in ("length", "close"), "no chunked coding", response.framing)
    expect.body(response, sample.data)
    _ended(web, connection, "after an HTTP/1.0 answer")


@shared("connection.close", writes=False)
def test_close(web: Client) -> None:
    """The client says that this is all."""
    connection = _raw(web, web.head("GET", "/", [("Connection", "close")]))
    expect.status(connection.receive(), 200)
    _ended(web, connection, "after Connection: close")


# -------------------------------------------------------------------------------------------------------- framing


def _coded(body: bytes) -> bytes:
    """One chunk. Read by a length a form is still a form: what stands before the first boundary is no part of it."""
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def _control(web: Client) -> None:
    """The twin of all framing cases: both framings alone are understood, and so is the request behind them."""
    by_length, by_chunks = web.storing("by length"), web.storing("by chunks")
    coded = by_chunks.head([("Transfer-Encoding", "chunked")]) + _coded(by_chunks.body)
    for message, status in ((by_length.sized(), by_length.status), (coded, by_chunks.status)):
        connection = _raw(web, message)
        response = expect.status(connection.receive("POST"), status, context="the well-framed twin")
        if not response.closes:
            connection.send(web.head(web.refusal.method, web.refusal.path))
            expect.status(connection.receive(), web.refusal.status, context="the request behind the twin")


@shared("smuggling.both-lengths")
def test_both_lengths(web: Client) -> None:
    """Two framings in one head: what a proxy and a server may read differently."""
    _control(web)
    coding = ("Transfer-Encoding", "chunked")
    for name in ("CL and TE", "TE and CL", "a short CL and TE", "TE twice and CL"):
        storing = web.storing(name)
        coded = _coded(storing.body)
        length = ("Content-Length", str(len(coded)))
        headers = {
            "CL and TE": (length, coding),
            "TE and CL": (coding, length),
            "a short CL and TE": (("Content-Length", "4"), coding),
            "TE twice and CL": (coding, ("Transfer-Encoding", "x"), length),
        }
        _one_refusal(web, storing.head(headers[name]) + coded, name, 400, 501)
    _alive(web)


@shared("smuggling.bad-length")
def test_bad_length(web: Client) -> None:
    """A length that is none, or two."""
    _control(web)
    for form in ("+{0}", "-{0}", "0x{0:x}", "{0},{1}", "{0} {0}", "{0}\xb2", "{0}x", ""):
        storing = web.storing(f"length {form}")
        value = form.format(len(storing.body), len(storing.body) + 1)
        _one_refusal(web, storing.head([("Content-Length", value)]) + storing.body, f"Content-Length {value!r}", 400)
    for more in ((0, 1), (1, 0)):
        storing = web.storing(f"lengths {more}")
        first, second = (len(storing.body) + one for one in more)
        twice = (("Content-Length", str(first)), ("Content-Length", str(second)))
        _one_refusal(web, storing.head(twice) + storing.body, f"Content-Length {first} and {second}", 400)
    _alive(web)


@shared("smuggling.space-before-colon")
def test_space_before_colon(web: Client) -> None:
    """A header that one reader sees and the next does not."""
    _control(web)
    storing = web.storing("blank before the colon")
    length = ("Content-Length", str(len(storing.body)))
    _one_refusal(web, storing.head([("Content-Length ", length[1])]) + storing.body, "Content-Length :", 400)
    coding = storing.head([("Transfer-Encoding ", "chunked")])
    _one_refusal(web, coding + _coded(storing.body), "Transfer-Encoding :", 400)
    for name in ("X-A ", "X Y", "", "X\t"):
        _one_refusal(web, storing.head([(name, "1"), length]) + storing.body, f"a field name {name!r}", 400)
    _alive(web)


@shared("smuggling.other-coding")
def test_other_coding(web: Client) -> None:
    """A coding the server cannot read, or only thinks it can."""
    _control(web)
    for value in ("gzip", "identity", "chunked, gzip", "xchunked", "chunked, chunked", "chunked\x0b"):
        storing = web.storing(f"coded {value.encode().hex()}")
        message = storing.head([("Transfer-Encoding", value)]) + _coded(storing.body)
        _one_refusal(web, message, f"Transfer-Encoding {value!r}", 400, 501)
    _alive(web)


@shared("smuggling.bad-chunk")
def test_bad_chunk(web: Client) -> None:
    """Chunks that end otherwise than they say."""
    _control(web)
    cases: dict[str, Callable[[bytes], bytes]] = {
        "no hexadecimal size": lambda body: b"g\r\n" + body,
        "a sign": lambda body: b"+%x\r\n" % len(body) + body,
        "0x": lambda body: b"0x%x\r\n" % len(body) + body,
        "a chunk longer than it says": lambda body: b"%x\r\n" % (len(body) - 1) + body,
        "a size beyond 64 bits": lambda body: b"1" + b"0" * 20 + b"\r\n" + body,
        "an empty size": lambda body: b"\r\n" + body,
    }
    for name, chunk in cases.items():
        storing = web.storing(name)
        coded = storing.head([("Transfer-Encoding", "chunked")]) + chunk(storing.body) + b"\r\n0\r\n\r\n"
        _one_refusal(web, coded, name, 400, 413)
        expect.status(web.get(storing.path), 404, context=f"after {name}")
    _alive(web)


@shared("smuggling.unread-body")
def test_unread_body(web: Client) -> None:
    """A whole request hides in the body of one that is answered without it."""
    hidden = web.head(web.refusal.method, web.refusal.path)
    sized = ("Content-Length", str(len(hidden)))
    for name, method, path, headers, statuses in web.unread():
        connection = _raw(web, web.head(method, path, [*headers, sized]) + hidden)
        response = expect.status(connection.receive(method), *statuses, context=name)
        if response.closes:
            _ended(web, connection, name)
            continue
        connection.send(web.head("GET", "/"))
        expect.status(connection.receive(), 200, context=f"the request after {name}")


# ----------------------------------------------------------------------------------------------------------- heads


def _refused_head(web: Client, data: bytes, context: str, *statuses: int) -> None:
    connection = _raw(web, data)
    try:
        response = connection.receive()
    except Closed:
        return
    expect.status(response, *statuses, context=context)
    _ended(web, connection, f"after {context}")


@shared("head.host", writes=False)
def test_host(web: Client) -> None:
    """None, two, and one."""
    host = f"Host: {web.run.options.target.authority}\r\n".encode()
    start = f"GET {web.run.options.target.prefix}/ HTTP/1.1\r\n".encode()
    expect.status(_raw(web, start + host + b"\r\n").receive(), 200, context="one Host")
    for name, data in (("no Host", start + b"\r\n"), ("two Hosts", start + host + b"Host: other.example\r\n\r\n")):
        expect.status(_raw(web, data).receive(), 400, context=name)


@shared("head.request-line", writes=False)
def test_request_line(web: Client) -> None:
    """Each one mutation away from a good line."""
    host = f"Host: {web.run.options.target.authority}\r\n\r\n".encode()
    expect.status(_raw(web, b"GET / HTTP/1.1\r\n" + host).receive(), 200, context="the good line")
    # RFC 9112 3: blanks too many may be read over, so they are no case here.
    words = (b"GET / HTTP/1", b"GET / HTTP/a.b", b"GET /a b HTTP/1.1", b"/ HTTP/1.1", b"GET nothing HTTP/1.1")
    for line in (*words, b"G\x01T / HTTP/1.1", b"GET / http/1.1", b"GET / HTTP/2.0"):
        _refused_head(web, line + b"\r\n" + host, repr(line), 400, 405, 501, 505)
    _alive(web)


@shared("head.limit", writes=False)
def test_limit(web: Client) -> None:
    """A head that goes on and on, as one line and as many; an ordinary long one is read."""
    expect.status(web.get("/", X_Long="x" * 4000), 200, context="a header of 4,000 bytes")
    floods = (
        ("one line", b"GET /" + b"a" * (1 << 20)),
        ("many lines", b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * (1 << 17)),
    )
    for name, data in floods:
        connection = _raw(web, data)
        try:
            expect.status(connection.receive(), 400, 414, 431, context=f"a head of 1 MiB without end, {name}")
        except Closed:
            pass  # cut off without a word, which is allowed
        except NoAnswer:
            raise expect.Violation("431, or the end", "the server goes on waiting", name) from None
    _alive(web)
