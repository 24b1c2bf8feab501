"""Connections and robustness: DL-8, RB-*. What RFC 9112 owes to every peer and every proxy in front."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.core import expect
from conformance.core.registry import clause
from conformance.core.verdict import Untestable
from conformance.core.wire import Closed, Connection, NoAnswer, Response
from conformance.kernelci.client import FORM_TYPE, Client, field, file, form

SMUGGLED = "/v1/checkauth"  # asked behind a message that must not be understood: its 401 tells that it was


def _alive(kci: Client) -> None:
    expect.status(kci.get("/"), 200, context="the next client")


def _raw(kci: Client, data: bytes) -> Connection:
    connection = kci.connection()
    connection.send(data)
    return connection


def _ended(kci: Client, connection: Connection, context: str) -> None:
    """Nothing more comes, and the connection ends."""
    early = kci.patience.ceiling("early")
    if not connection.answered_within(early):
        raise expect.Violation("the end of the connection", f"still open after {early:g} s", context)
    expect.that(connection.ended_within(0.01), "the end of the connection", "another answer", context)


def _one_refusal(kci: Client, data: bytes, context: str, *statuses: int) -> None:
    """The message is refused once, or the connection closed, and what follows it is not a request."""
    connection = _raw(kci, data + kci.head("GET", SMUGGLED))
    try:
        response = connection.receive("POST")
    except Closed:
        return
    expect.status(response, *statuses, context=context)
    _ended(kci, connection, f"after {context}")


# ---------------------------------------------------------------------------------------------------- connections


@clause("DL-08a", "connection.keep-alive")
def test_keep_alive(kci: Client) -> None:
    """One connection for all that a client does."""
    key = kci.key("kept.txt")
    body = form(field("path", kci.folder), file("kept.txt", b"kept"))
    upload = kci.head("POST", "/v1/file", [kci.authorised(), FORM_TYPE, ("Content-Length", str(len(body)))]) + body
    missing = kci.head("GET", "/" + kci.key("missing"))
    get = kci.head("GET", "/" + key)
    steps: Sequence[tuple[str, bytes, int]] = (
        ("GET", kci.head("GET", "/"), 200),
        ("GET", missing, 404),
        ("POST", upload, 200),
        ("GET", get, 200),
        ("HEAD", kci.head("HEAD", "/" + key), 200),
        ("GET", kci.head("GET", "/v1/checkauth"), 401),
        ("GET", get, 200),
    )
    connection = kci.connection()
    closed: list[str] = []
    for number, (method, data, status) in enumerate(steps):
        connection.send(data)
        response = expect.status(connection.receive(method), status, context=f"request {number + 1}, {method}")
        if response.closes:
            closed.append(f"request {number + 1}")
            connection = kci.connection()
    if len(closed) == len(steps):
        raise Untestable("every answer says Connection: close, which RFC 9112 9.6 leaves to the server")
    expect.equal(closed, [], "requests after which the connection was closed")


@clause("DL-08b", "connection.pipelining")
def test_pipelining(kci: Client) -> None:
    """Twelve requests at once, a body among them."""
    for number in range(4):
        kci.stored(kci.key(str(number)), f"object {number}".encode())
    body = form(field("path", kci.folder), file("piped", b"piped"))
    upload = kci.head("POST", "/v1/file", [kci.authorised(), FORM_TYPE, ("Content-Length", str(len(body)))]) + body
    gets = b"".join(kci.head("GET", "/" + kci.key(str(number))) for number in range(4))
    connection = _raw(kci, gets + upload + gets)
    for place in (0, 1, 2, 3, None, 0, 1, 2, 3):
        response = expect.status(connection.receive(), 200, context=f"pipelined, place {place}")
        expect.body(response, b"" if place is None else f"object {place}".encode(), f"place {place}")
        if response.closes:
            raise Untestable("the server closes the connection, which ends the pipeline (RFC 9112 9.3.2)")
    kci.has(kci.key("piped"), b"piped")


@clause("DL-08c", "connection.http10", writes=False)
def test_http10(kci: Client) -> None:
    """As nginx asks its backend unless it is told otherwise."""
    sample = kci.sample()
    connection = _raw(kci, f"GET {kci.run.options.target.prefix}{sample.path} HTTP/1.0\r\n\r\n".encode())
    response = expect.status(connection.receive(), 200)
    expect.that(response.framing in ("length", "close"), "no chunked coding", response.framing)
    expect.body(response, sample.data)
    _ended(kci, connection, "after an HTTP/1.0 answer")


@clause("DL-08d", "connection.close", writes=False)
def test_close(kci: Client) -> None:
    """The client says that this is all."""
    connection = _raw(kci, kci.head("GET", "/", [("Connection", "close")]))
    expect.status(connection.receive(), 200)
    _ended(kci, connection, "after Connection: close")


# -------------------------------------------------------------------------------------------------------- framing


def _upload(kci: Client) -> bytes:
    """A form that every server which misreads the framing would store: only the framing is wrong."""
    return form(field("path", kci.folder), file("framed.txt", b"framed"))


def _coded(body: bytes) -> bytes:
    """One chunk. Read by a length it is still a form: what stands before the first boundary is no part of it."""
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def _post(kci: Client, *headers: tuple[str, str]) -> bytes:
    return kci.head("POST", "/v1/file", [kci.authorised(), FORM_TYPE, *headers])


def _control(kci: Client) -> None:
    """The twin of all framing cases: both framings alone are understood, and so is the request behind them."""
    body = _upload(kci)
    length, coding = ("Content-Length", str(len(body))), ("Transfer-Encoding", "chunked")
    for message in (_post(kci, length) + body, _post(kci, coding) + _coded(body)):
        connection = _raw(kci, message)
        response = expect.status(connection.receive("POST"), 200, context="the well-framed twin")
        if not response.closes:
            connection.send(kci.head("GET", SMUGGLED))
            expect.status(connection.receive(), 401, context="the request behind the twin")


@clause("RB-01", "smuggling.both-lengths")
def test_both_lengths(kci: Client) -> None:
    """Two framings in one head: what a proxy and a server may read differently."""
    _control(kci)
    coded = _coded(_upload(kci))
    length, coding = ("Content-Length", str(len(coded))), ("Transfer-Encoding", "chunked")
    for name, headers in (
        ("CL and TE", (length, coding)),
        ("TE and CL", (coding, length)),
        ("a short CL and TE", (("Content-Length", "4"), coding)),
        ("TE twice and CL", (coding, ("Transfer-Encoding", "x"), length)),
    ):
        _one_refusal(kci, _post(kci, *headers) + coded, name, 400, 501)
    _alive(kci)


@clause("RB-02", "smuggling.bad-length")
def test_bad_length(kci: Client) -> None:
    """A length that is none, or two."""
    _control(kci)
    body = _upload(kci)
    size = len(body)
    for value in (
        f"+{size}",
        f"-{size}",
        f"0x{size:x}",
        f"{size},{size + 1}",
        f"{size} {size}",
        f"{size}\xb2",
        f"{size}x",
        "",
    ):
        _one_refusal(kci, _post(kci, ("Content-Length", value)) + body, f"Content-Length {value!r}", 400)
    for first, second in ((size, size + 1), (size + 1, size)):
        twice = (("Content-Length", str(first)), ("Content-Length", str(second)))
        _one_refusal(kci, _post(kci, *twice) + body, f"Content-Length {first} and {second}", 400)
    _alive(kci)


@clause("RB-03", "smuggling.space-before-colon")
def test_space_before_colon(kci: Client) -> None:
    """A header that one reader sees and the next does not."""
    _control(kci)
    body = _upload(kci)
    length = ("Content-Length", str(len(body)))
    _one_refusal(kci, _post(kci, ("Content-Length ", length[1])) + body, "Content-Length :", 400)
    _one_refusal(kci, _post(kci, ("Transfer-Encoding ", "chunked")) + _coded(body), "Transfer-Encoding :", 400)
    for name in ("X-A ", "X Y", "", "X\t"):
        _one_refusal(kci, _post(kci, (name, "1"), length) + body, f"a field name {name!r}", 400)
    _alive(kci)


@clause("RB-09", "smuggling.other-coding")
def test_other_coding(kci: Client) -> None:
    """A coding the server cannot read, or only thinks it can."""
    _control(kci)
    for value in ("gzip", "identity", "chunked, gzip", "xchunked", "chunked, chunked", "chunked\x0b"):
        coded = _coded(_upload(kci))
        _one_refusal(kci, _post(kci, ("Transfer-Encoding", value)) + coded, f"Transfer-Encoding {value!r}", 400, 501)
    _alive(kci)


@clause("RB-07", "smuggling.bad-chunk")
def test_bad_chunk(kci: Client) -> None:
    """Chunks that end otherwise than they say."""
    _control(kci)
    body = form(field("path", kci.folder), file("chunk.txt", b"x"))
    size = b"%x" % len(body)
    cases = (
        ("no hexadecimal size", b"g\r\n" + body + b"\r\n0\r\n\r\n"),
        ("a sign", b"+" + size + b"\r\n" + body + b"\r\n0\r\n\r\n"),
        ("0x", b"0x" + size + b"\r\n" + body + b"\r\n0\r\n\r\n"),
        ("a chunk longer than it says", b"%x\r\n" % (len(body) - 1) + body + b"\r\n0\r\n\r\n"),
        ("a size beyond 64 bits", b"1" + b"0" * 20 + b"\r\n" + body + b"\r\n0\r\n\r\n"),
        ("an empty size", b"\r\n" + body + b"\r\n0\r\n\r\n"),
    )
    for name, coded in cases:
        _one_refusal(kci, _post(kci, ("Transfer-Encoding", "chunked")) + coded, name, 400, 413)
        kci.has_not(kci.key("chunk.txt"), f"after {name}")
    _alive(kci)


@clause("RB-08", "smuggling.unread-body")
def test_unread_body(kci: Client) -> None:
    """A whole request hides in the body of one that is refused."""
    hidden = kci.head("GET", SMUGGLED)
    sized = ("Content-Length", str(len(hidden)))
    for name, method, path, status in (
        ("an upload without a token", "POST", "/v1/file", (401,)),
        ("a POST to a path without a route", "POST", "/no/such/route", (404, 405)),
        ("a GET with content", "GET", "/", (200, 400)),
        ("a GET of nothing with content", "GET", "/no/such/object", (404, 400)),
    ):
        connection = _raw(kci, kci.head(method, path, [sized]) + hidden)
        response = expect.status(connection.receive(method), *status, context=name)
        if response.closes:
            _ended(kci, connection, name)
            continue
        connection.send(kci.head("GET", "/"))
        expect.status(connection.receive(), 200, context=f"the request after {name}")


# ----------------------------------------------------------------------------------------------------------- heads


def _refused_head(kci: Client, data: bytes, context: str, *statuses: int) -> None:
    connection = _raw(kci, data)
    try:
        response = connection.receive()
    except Closed:
        return
    expect.status(response, *statuses, context=context)
    _ended(kci, connection, f"after {context}")


@clause("RB-04", "head.host", writes=False)
def test_host(kci: Client) -> None:
    """None, two, and one."""
    host = f"Host: {kci.run.options.target.authority}\r\n".encode()
    start = f"GET {kci.run.options.target.prefix}/ HTTP/1.1\r\n".encode()
    expect.status(_raw(kci, start + host + b"\r\n").receive(), 200, context="one Host")
    for name, data in (("no Host", start + b"\r\n"), ("two Hosts", start + host + b"Host: other.example\r\n\r\n")):
        expect.status(_raw(kci, data).receive(), 400, context=name)


@clause("RB-05", "head.request-line", writes=False)
def test_request_line(kci: Client) -> None:
    """Each one mutation away from a good line."""
    host = f"Host: {kci.run.options.target.authority}\r\n\r\n".encode()
    expect.status(_raw(kci, b"GET / HTTP/1.1\r\n" + host).receive(), 200, context="the good line")
    # RFC 9112 3: blanks too many may be read over, so they are no case here.
    words = (b"GET / HTTP/1", b"GET / HTTP/a.b", b"GET /a b HTTP/1.1", b"/ HTTP/1.1", b"GET nothing HTTP/1.1")
    for line in (*words, b"G\x01T / HTTP/1.1", b"GET / http/1.1", b"GET / HTTP/2.0"):
        _refused_head(kci, line + b"\r\n" + host, repr(line), 400, 405, 501, 505)
    _alive(kci)


@clause("RB-06", "head.limit", writes=False)
def test_limit(kci: Client) -> None:
    """A head that goes on and on, as one line and as many; an ordinary long one is read."""
    expect.status(kci.get("/", X_Long="x" * 4000), 200, context="a header of 4,000 bytes")
    floods = (
        ("one line", b"GET /" + b"a" * (1 << 20)),
        ("many lines", b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * (1 << 17)),
    )
    for name, data in floods:
        connection = _raw(kci, data)
        try:
            expect.status(connection.receive(), 400, 414, 431, context=f"a head of 1 MiB without end, {name}")
        except Closed:
            pass  # cut off without a word, which is allowed
        except NoAnswer:
            raise expect.Violation("431, or the end", "the server goes on waiting", name) from None
    _alive(kci)


@clause("RB-10", "head.no-injection")
def test_no_injection(kci: Client) -> None:
    """CR LF in every place that comes back: key, path of a 404, content type."""
    evil = "a\r\nX-Injected: yes"
    kci.stored(kci.key("plain.txt"), b"x", Content_Type_Upstream="text/x-plain")
    answers: list[Response] = [
        kci.get("/" + kci.key("x%0d%0aX-Injected:%20yes")),
        kci.get("/favicon.ico?%0d%0aX-Injected:%20y"),
    ]
    for name in (f"{evil}.txt", "b\nX-Injected: yes", "c\rX-Injected: yes"):
        sent = kci.post(field("path", f"{kci.folder}/{name}"), file("inner.txt", b"x"))
        expect.status(sent, 400, context=f"path {name!r}")
        answers.append(sent)
    quoted = kci.post(field("path", kci.folder), file('q\\"\\r\\nX-Injected: yes', b"x"))
    answers.append(quoted)
    answers += [kci.download(line) for line in kci.listed_if_any() if line.startswith(kci.folder)]
    for response in answers:
        expect.no_header(response, "X-Injected", expect.describe(response))
    expect.equal(expect.media_type(kci.download(kci.key("plain.txt")))[0], "text/x-plain", "the type of the twin")


@clause("RB-11", "error.no-leak")
def test_no_leak(kci: Client) -> None:
    """The text of many errors, and of one that needs a disk."""
    kci.stored(kci.key("a/file"), b"x")
    answers = [
        kci.get("/" + kci.key("missing")),
        kci.get("/%00"),
        kci.get("/" + "x" * 300),
        kci.upload(kci.key("a/file/below"), b"x"),
        kci.upload(kci.key("a"), b"x"),
        kci.post(field("path", kci.folder)),
        kci.request(
            "POST", "/v1/file", [kci.authorised(), ("Content-Type", "multipart/form-data; boundary=\xe9")], b"x"
        ),
        kci.get("/v1/checkauth", Authorization="Bearer \xff.\xff.\xff"),
    ]
    for response in answers:
        expect.that(400 <= response.status < 500, "a refusal (4xx)", expect.describe(response))
        for leak in ("Traceback", 'File "', "Errno", "/home/", "/var/", "/tmp/", "/srv/", "/root/"):
            expect.that(leak not in response.text, f"no {leak!r}", response.text[:200])
