"""HTTP from the client's side: what is read is what http.client reads, and nothing that is no HTTP is taken for it."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
from collections.abc import Iterator
from typing import Callable, Optional
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kcistorage_parts import connections
from kcistorage_parts.connections import BadReply, Connection, Connections, Headers, Reply, Request, any_reply


def request(method: str = "GET", body: bytes = b"", check: Callable[[int, Headers], None] = any_reply) -> Request:
    return Request(method, "/x?y=z", {"X-Name": "value"}, body, check)


class Line:
    """A connection whose other end the test holds; `freed` after a reply that another request may follow."""

    def __init__(self) -> None:
        here, self.peer = socket.socketpair()
        here.settimeout(5)
        self.peer.settimeout(5)
        self.connection, self.freed = Connection(here, "host:1"), False

    def free(self, connection: Connection) -> None:
        self.freed = True

    def ask(self, answer: bytes, asked: Optional[Request] = None, end: bool = True) -> Reply:
        """The reply to a request, for which this answer is there already."""
        self.peer.sendall(answer)
        if end:
            self.peer.shutdown(socket.SHUT_WR)
        return self.connection.ask(asked or request(), self.free)

    def close(self) -> None:
        self.connection.close()
        self.peer.close()


@pytest.fixture
def line() -> Iterator[Line]:
    with contextlib.closing(Line()) as one:
        yield one


def whole(reply: Reply) -> bytes:
    return reply.body + b"".join(reply.rest)


def send_quietly(peer: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        peer.sendall(data)


def received(peer: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    return b"".join(iter(lambda: peer.recv(1 << 16), b""))


# ---- Replies

NAMES = st.text("abcXYZ-09_!", min_size=1, max_size=8).map(lambda name: f"X-{name}")
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f\x85\xa0"), max_size=20)


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nX-Trailer: x\r\n\r\n"


class FakeSocket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


@given(
    status=st.sampled_from((200, 201, 204, 206, 304, 404, 503)),
    method=st.sampled_from(("GET", "HEAD", "PUT")),
    fields=st.lists(st.tuples(NAMES, VALUES), max_size=6, unique_by=lambda field: field[0].lower()),
    body=st.binary(max_size=300),
    framing=st.sampled_from(("length", "chunked", "end")),
    before=st.sampled_from((b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")),
)
@settings(deadline=None)
def test_a_reply_is_what_http_client_reads(
    status: int, method: str, fields: list[tuple[str, str]], body: bytes, framing: str, before: bytes
) -> None:
    """RFC 9112 6.3: status, fields and body."""
    told = {"length": f"Content-Length: {len(body)}\r\n", "chunked": "Transfer-Encoding: Chunked\r\n", "end": ""}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    head = f"HTTP/1.1 {status} Some Reason\r\n{lines}{told[framing]}\r\n".encode("latin-1")
    bodiless = method == "HEAD" or status in (204, 304)
    answer = head + (b"" if bodiless else chunked(body, 70) if framing == "chunked" else body)
    theirs = http.client.HTTPResponse(FakeSocket(answer), method=method)  # type: ignore[arg-type]
    theirs.begin()
    with contextlib.closing(Line()) as line:
        reply = line.ask(before + answer, request(method))
        assert (reply.status, whole(reply)) == (theirs.status, b"" if bodiless else theirs.read())
        for name, value in fields:
            assert reply.headers[name.lower()] == value.strip(" \t")
        assert line.freed == (bodiless or framing != "end")


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        GOOD[:-1],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\no",
        b"HTTP/1.1 206 Some\r\nContent-Length: 2\r\n\r\no",
        b"HTTP/1.1 206 Some\r\nContent-Length: %d\r\n\r\n" % (connections.SMALL_BYTES + 1),
    ],
    ids=repr,
)
def test_a_reply_that_is_cut_off_is_none(line: Line, answer: bytes) -> None:
    with pytest.raises(ConnectionResetError):
        line.ask(answer)
    assert not line.freed
    assert line.connection._socket.fileno() == -1


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * connections.MOST_LINE + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * connections.MOST_FIELDS + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
        b"HTTP/1.1 206 Some\r\nContent-Length: x\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
    ],
    ids=lambda answer: repr(answer[:60]),
)
def test_what_is_no_http_is_no_reply(line: Line, answer: bytes) -> None:
    with pytest.raises(BadReply):
        line.ask(answer)
    assert not line.freed
    assert line.connection._socket.fileno() == -1


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 11\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_that_is_too_large_is_not_kept(line: Line, monkeypatch: pytest.MonkeyPatch, framing: bytes) -> None:
    """It would be in memory; of a range only its beginning is."""
    monkeypatch.setattr(connections, "MOST_BODY", 10)
    body = b"6\r\n012345\r\n5\r\n67890\r\n0\r\n\r\n" if b"chunked" in framing else b"01234567890"
    with pytest.raises(BadReply):
        line.ask(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + body)


@pytest.mark.parametrize(
    "answer",
    [
        GOOD.replace(b"1.1", b"1.0"),
        GOOD.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n"),
        b"HTTP/1.1 200 OK\r\n\r\nok",
        GOOD + b"HTTP/1.1 200 OK\r\n",
        GOOD.replace(b"200", b"206") + b"!",
    ],
    ids=repr,
)
def test_a_connection_ends_with_a_reply_after_which_nobody_knows_what_comes(line: Line, answer: bytes) -> None:
    """RFC 9112 9.3: an old server, one that says so, a body without a length, more than was asked for."""
    assert whole(line.ask(answer)) == b"ok"
    assert not line.freed
    assert line.connection._socket.fileno() == -1


def test_a_reply_that_is_not_wanted_is_not_read(line: Line) -> None:
    def check(status: int, headers: Headers) -> None:
        assert (status, headers["content-length"]) == (200, "2")
        raise BadReply("not this")

    with pytest.raises(BadReply, match="not this"):
        line.ask(GOOD, request(check=check))
    assert not line.freed


# ---- Ranges


def part(size: int) -> bytes:
    return b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n\r\n" % size


def test_a_small_range_is_body(line: Line) -> None:
    """All of it, however it comes."""
    data = b"a" * connections.SMALL_BYTES
    sender = threading.Thread(target=line.peer.sendall, args=(part(len(data)) + data,))
    sender.start()
    reply = line.connection.ask(request(), line.free)
    sender.join()
    assert reply.body == data
    assert list(reply.rest) == []
    assert line.freed


def test_a_large_range_arrives_piece_by_piece(line: Line) -> None:
    """Its beginning is there as soon as a byte is. Its connection is free with the last piece, and not before."""
    first, second = b"a" * 1_000, b"b" * (connections.SMALL_BYTES + connections.PIECE_BYTES)
    line.peer.sendall(part(len(first + second)) + first)
    reply = line.connection.ask(request(), line.free)
    assert reply.body == first
    rest = iter(reply.rest)
    sender = threading.Thread(target=line.peer.sendall, args=(second,))
    sender.start()
    assert next(rest) == second[: connections.PIECE_BYTES]
    assert not line.freed
    assert next(rest) == second[connections.PIECE_BYTES :]
    assert line.freed
    assert list(rest) == []
    sender.join()


@pytest.mark.parametrize("begun", [False, True])
def test_who_wants_no_more_of_a_range_ends_its_connection(line: Line, begun: bool) -> None:
    size = connections.SMALL_BYTES + 2 * connections.PIECE_BYTES
    sender = threading.Thread(target=send_quietly, args=(line.peer, part(size) + bytes(size)))
    sender.start()
    reply = line.connection.ask(request(), line.free)
    if begun:
        next(iter(reply.rest))
    reply.rest.close()
    assert line.connection._socket.fileno() == -1
    assert not line.freed
    sender.join()


def test_a_range_that_breaks_off_says_so(line: Line) -> None:
    reply = line.ask(part(connections.SMALL_BYTES + 5) + bytes(connections.SMALL_BYTES + 4))
    with pytest.raises(ConnectionResetError):
        list(reply.rest)
    assert not line.freed
    assert line.connection._socket.fileno() == -1


# ---- Requests


@pytest.mark.parametrize("body", [b"", b"x", b"y" * (2 * connections.PIECE_BYTES + 1)], ids=len)
def test_a_request_is_what_was_asked_for(line: Line, body: bytes) -> None:
    came = bytearray()
    reader = threading.Thread(target=lambda: came.extend(received(line.peer)))
    reader.start()
    line.peer.sendall(GOOD)
    line.connection.ask(request("PUT", body), line.free)
    line.connection.close()
    reader.join()
    head, _, content = bytes(came).partition(b"\r\n\r\n")
    method, *fields = head.split(b"\r\n")
    assert method == b"PUT /x?y=z HTTP/1.1"
    assert {b"Host: host:1", b"X-Name: value", b"Content-Length: %d" % len(body)} < set(fields)
    assert content == body


@pytest.mark.parametrize("bad", ["a\r\nX: y", "a\nb", "a\0b"])
def test_nobody_can_put_a_line_into_a_request(line: Line, bad: str) -> None:
    for asked in (request()._replace(target=bad), request()._replace(headers={"X": bad})):
        with contextlib.closing(Line()) as fresh, pytest.raises(ValueError, match="line break"):
            fresh.ask(GOOD, asked)


# ---- Connections


def test_a_host_that_no_host_can_be(line: Line) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Connections(urlsplit(f"http://{'x' * 70}.example"), 1)
