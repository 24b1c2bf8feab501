"""HTTP/1.1 over real sockets: the wire, bodies, exchanges, connections and the server, most of all when they go wrong.

The server at the other end has either the routes of KernelCI, or a few of this file that show what a handler sees.
Every test ends with a look into the log: no line but well-formed ones; no traceback either, unless the test's name
speaks of a fault.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import shutil
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple, NoReturn, Optional, Union, cast

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import kcistorage
from kcistorage import (
    MOST_AT_DOOR,
    Answer,
    Body,
    Exchange,
    FileBody,
    LimitOptions,
    Refused,
    Site,
    StorageServer,
    StreamBody,
    Wire,
)
from kcistorage_parts import heads
from kcistorage_parts.heads import BadHead, parse_head
from kcistorage_test.conftest import SECRET, Running, Start, token
from kcistorage_test.talk import FORM_TYPE, Peer, Reply, chunked, form, part

PURE = settings(deadline=None, max_examples=200)
SOCKETS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
IMPATIENT = 0.4  # seconds; of one limit at a time, so that a slow machine does not meet the others
QUICK_HEAD = LimitOptions(head_seconds=IMPATIENT)
QUICK_BODY = LimitOptions(body_idle_seconds=IMPATIENT)
QUICK_REST = LimitOptions(keep_alive_seconds=IMPATIENT)
LOG_LINE = re.compile(
    r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z event=[a-z_-]+"
    r'(?: [a-z]+=(?:"(?:[ !#-\[\]-~]|\\["\\/bfnrt]|\\u[0-9a-f]{4})*"|[!#-~]*))*'
)
LOG_VALUE = re.compile(r' ([a-z]+)=("(?:[^"\\]|\\.)*"|\S*)')


def until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Waits for what another thread is about to do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it never came true: {what}"
        threading.Event().wait(0.002)


def rest_ends(server: Running) -> None:
    until(lambda: server.server.connections == 0, "no connection is open")


@pytest.fixture
def start(start: Start, request: pytest.FixtureRequest) -> Iterator[Start]:
    """As in conftest; and in the end the log is read."""
    running: list[Running] = []

    def start_one(*arguments: object, **changes: object) -> Running:
        running.append(start(*arguments, **changes))
        return running[-1]

    yield start_one
    for server in running:
        rest_ends(server)
        assert [line for line in server.log() if not LOG_LINE.fullmatch(line)] == []
        if "fault" not in request.node.name.replace("no_fault", ""):
            assert [line for line in server.log() if "event=error" in line] == []


def values(line: str) -> dict[str, str]:
    """The values of a log line."""
    found = LOG_VALUE.findall(" " + line)
    return {name: json.loads(value) if value.startswith('"') else value for name, value in found}


def accesses(server: Running) -> list[dict[str, str]]:
    """All requests that were answered, once their connections have ended."""
    rest_ends(server)
    return [values(line) for line in server.log() if "event=access" in line]


# ---- Handlers that show what a handler sees


class Echo:
    """Answers with the body of the request."""

    def respond(self, exchange: Exchange) -> Answer:
        return Answer(200, (), b"".join(iter(lambda: exchange.body.read(10_000), b"")))


class Ignore:
    """Answers without a look at the body."""

    def respond(self, exchange: Exchange) -> Answer:
        return Answer(200, (), b"ignored")


class Calls:
    """Answers with what a function returns or raises."""

    def __init__(self, function: Callable[[Exchange], Answer]) -> None:
        self._function = function

    def respond(self, exchange: Exchange) -> Answer:
        return self._function(exchange)


def serve(server: Running, function: Callable[[Exchange], Answer]) -> Running:
    """Has a function answer to every GET."""
    server.server.site = Site([], {}, {"GET": Calls(function)})
    return server


def stream(*blocks: bytes, length: Optional[int] = None) -> Answer:
    return Answer(200, (), StreamBody((block for block in blocks), length))


def use_echo(server: Running, *gates: kcistorage.Gate) -> Running:
    echo, ignore = Echo(), Ignore()
    routes: dict[str, dict[str, kcistorage.Handler]] = {
        "/echo": {"GET": echo, "POST": echo},
        "/ignore": {"GET": ignore, "POST": ignore},
    }
    server.server.site = Site(gates, routes, {"GET": ignore})
    return server


@pytest.fixture
def echo(server: Running) -> Running:
    return use_echo(server)


def raw(line: str, *fields: str, body: bytes = b"") -> bytes:
    """A request to the letter, with a Host."""
    return "\r\n".join([line, "Host: test", *fields]).encode("latin-1") + b"\r\n\r\n" + body


def post(path: str, body: bytes, *fields: str) -> bytes:
    return raw(f"POST {path} HTTP/1.1", f"Content-Length: {len(body)}", *fields, body=body)


def post_chunked(path: str, body: bytes, *fields: str) -> bytes:
    return raw(f"POST {path} HTTP/1.1", "Transfer-Encoding: chunked", *fields, body=body)


SMUGGLED = raw("GET /smuggled HTTP/1.1")


def assert_refused_for_good(server: Running, data: bytes, status: int, reason: str) -> None:
    """The answer says why and closes; it is logged; and what follows in the stream is never taken for a request."""
    with server.peer() as peer:
        peer.send(data + SMUGGLED)
        reply = peer.reply()
        assert (reply.status, reply.fields["connection"]) == (status, "close")
        assert len(reply.text.splitlines()) == 1
        assert peer.rest() == b""
    answered = accesses(server)
    assert [(line["status"], line["reason"]) for line in answered] == [(str(status), reason)]
    assert int(answered[0]["bytes"]) == len(reply.body)


# ---- Heads over the wire (RFC 9112 2 to 6)

BAD_HEADS = {
    "LF ends the request line": b"GET / HTTP/1.1\nHost: test\r\n\r\n",
    "LF ends a field": b"GET / HTTP/1.1\r\nHost: test\nA: b\r\n\r\n",
    "LF ends the head": b"GET / HTTP/1.1\r\nHost: test\n\n",
    "LF alone is the empty line": b"GET / HTTP/1.1\r\nHost: test\r\n\n",
    "CR inside a field": raw("GET / HTTP/1.1", "A: b\rc"),
    "obs-fold with a space": raw("GET / HTTP/1.1", "A: b", " c"),
    "obs-fold with a tab": raw("GET / HTTP/1.1", "A: b", "\tc"),
    "obs-fold before the first field": b"GET / HTTP/1.1\r\n A: b\r\nHost: test\r\n\r\n",
    "space before the colon": raw("GET / HTTP/1.1", "A : b"),
    "space before the colon of a length": raw("POST / HTTP/1.1", "Content-Length : 5"),
    "no colon": raw("GET / HTTP/1.1", "A"),
    "empty name": raw("GET / HTTP/1.1", ": b"),
    "NUL in a value": raw("GET / HTTP/1.1", "A: \0"),
    "NUL in a name": raw("GET / HTTP/1.1", "A\0: b"),
    "NUL in the target": raw("GET /\0 HTTP/1.1"),
    "NUL first": b"\0" + SMUGGLED,
    "space first": b" " + SMUGGLED,
    "two spaces": raw("GET  / HTTP/1.1"),
    "space in the target": raw("GET /a b HTTP/1.1"),
    "no target": raw("GET HTTP/1.1"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": raw("GET / HTTP/1.1", "Host: test"),
    "a Host that is none": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "CONNECT": raw("CONNECT test:443 HTTP/1.1"),
    "no request line": b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "the same length twice": raw("POST /echo HTTP/1.1", "Content-Length: 5", "Content-Length: 5", body=b"12345"),
    "two lengths": raw("POST /echo HTTP/1.1", "Content-Length: 5", "Content-Length: 0", body=b"12345"),
    "a list of lengths": raw("POST /echo HTTP/1.1", "Content-Length: 5,5", body=b"12345"),
    "a signed length": raw("POST /echo HTTP/1.1", "Content-Length: +5", body=b"12345"),
    "a negative length": raw("POST /echo HTTP/1.1", "Content-Length: -1"),
    "a hexadecimal length": raw("POST /echo HTTP/1.1", "Content-Length: 0x5", body=b"12345"),
    "an empty length": raw("POST /echo HTTP/1.1", "Content-Length:"),
    "an endless length": raw("POST /echo HTTP/1.1", f"Content-Length: {'9' * 30}"),
    "length and chunked": post_chunked("/echo", b"0\r\n\r\n", "Content-Length: 5"),
    "chunked and length": raw("POST /echo HTTP/1.1", "Content-Length: 5", "Transfer-Encoding: chunked", body=b"12345"),
    "identity": raw("POST /echo HTTP/1.1", "Transfer-Encoding: identity", body=b"12345"),
    "gzip, chunked": raw("POST /echo HTTP/1.1", "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "chunked twice": post_chunked("/echo", b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    "an empty coding": raw("POST /echo HTTP/1.1", "Transfer-Encoding:", body=b"12345"),
    "chunked in HTTP/1.0": raw("POST /echo HTTP/1.0", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
}


@pytest.mark.parametrize("data", BAD_HEADS.values(), ids=BAD_HEADS.keys())
def test_a_malformed_head_is_400_and_ends_the_connection(echo: Running, data: bytes) -> None:
    assert_refused_for_good(echo, data, 400, "head-malformed")


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "version-unsupported"),
        (raw("GET / HTTP/3.0"), 400, "version-unsupported"),
        (raw("GET /" + "a" * heads.MAX_TARGET + " HTTP/1.1"), 414, "target-too-long"),
        (b"GET /" + b"a" * 60_000, 414, "target-too-long"),
        (raw("GET / HTTP/1.1", *[f"A{number}: b" for number in range(heads.MAX_FIELDS)]), 431, "too-many-fields"),
        (raw("GET / HTTP/1.1", "A: " + "b" * heads.MAX_HEAD), 431, "head-too-large"),
        (raw("GET / HTTP/1.1", *["A: " + "b" * 1_000] * 70), 431, "head-too-large"),
        (post("/echo", b"12345", "Expect: 200-ok"), 417, "expectation-unknown"),
    ],
    ids=["HTTP/2", "HTTP/3", "8 KiB", "no line end", "101 fields", "64 KiB in one field", "64 KiB", "Expect"],
)
def test_other_refusals_of_a_head(echo: Running, data: bytes, status: int, reason: str) -> None:
    assert_refused_for_good(echo, data, status, reason)


def test_heads_at_the_limits_pass(echo: Running) -> None:
    with echo.peer() as peer:
        assert peer.get("/" + "a" * (heads.MAX_TARGET - 1)).status == 200
        assert peer.get("/", *[f"A{number}: b" for number in range(heads.MAX_FIELDS - 1)]).status == 200
        start = raw("GET / HTTP/1.1", "Pad: ")[:-4]
        assert peer.send(start + b"x" * (heads.MAX_HEAD - len(start)) + b"\r\n\r\n").reply().status == 200


def test_a_client_that_writes_an_endless_head_sees_431(echo: Running) -> None:
    """The server stops to read for good long before the client stops to write; the answer arrives all the same."""
    with echo.peer() as peer:
        assert peer.send(b"GET / HTTP/1.1\r\nA: " + b"a" * (8 << 20)).reply().status == 431
        assert peer.rest() == b""


def test_an_empty_line_between_requests_is_ignored(echo: Running) -> None:
    """RFC 9112 2.2."""
    with echo.peer() as peer:
        for _ in range(2):
            assert peer.send(b"\r\n" + post("/echo", b"body")).reply().body == b"body"


@pytest.mark.parametrize("data", [b"GET / HT", b"", b"\r\n"])
def test_a_client_that_ends_before_its_head_does_is_no_request(echo: Running, data: bytes) -> None:
    with echo.peer() as peer:
        peer.send(data)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.rest() == b""
    assert accesses(echo) == []


def test_forms_of_the_target(server: Running) -> None:
    """RFC 9112 3.2.2: the absolute form, which clients send to a proxy, is understood; DL-1: repeated slashes too."""
    with server.peer() as peer:
        assert peer.upload(token(), "a+b", "c=d.txt", b"content").status == 200
        for target in ("/a+b/c=d.txt", "http://other.example/a+b/c=d.txt?query", "//a+b//c=d.txt", "/a%2Bb/c%3Dd.txt"):
            assert peer.get(target).body == b"content"


# ---- Heads and bodies without a network: the pieces arrive exactly as cut


class Pieces:
    """What a Wire needs of a socket: gives the data in these pieces, then the end of the stream."""

    def __init__(self, data: bytes, cuts: Sequence[int] = ()) -> None:
        ends = [*sorted(cut for cut in cuts if cut < len(data)), len(data)]
        self._pieces = [data[begin:end] for begin, end in zip([0, *ends], ends) if begin < end]
        self.sent = b""

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        assert value

    def recv(self, most: int) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > most:
            self._pieces.insert(0, piece[most:])
        return piece[:most]

    def sendall(self, data: bytes) -> None:
        self.sent += data


def wire_of(data: bytes, cuts: Sequence[int] = ()) -> Wire:
    return Wire(cast(socket.socket, Pieces(data, cuts)))


def unread(wire: Wire) -> bytes:
    """All that is left, in the buffer and on the way."""
    buffered = wire.read(1 << 30) if wire.has_buffered() else b""
    return buffered + b"".join(iter(lambda: wire.receive(65_536, 1.0), b""))


START = raw("POST / HTTP/1.1")
CUTS = st.lists(st.integers(0, 2_000), max_size=8)


def test_a_head_that_comes_byte_by_byte_costs_little_for_each() -> None:
    """Invariant: the work is linear. Searching all of it again for each byte takes 8 s instead of 0.3."""
    data = START[:-2] + b"A: " + b"b" * 30_000 + b"\r\n\r\n"
    wire, began = wire_of(data, range(len(data))), time.thread_time()
    assert wire.read_head() == data[:-4]
    assert time.thread_time() - began < 3


def heads_of(data: bytes, cuts: Sequence[int]) -> list[object]:
    """All that a wire makes of these bytes: good heads, and the refusal that ends them."""
    wire = wire_of(data, cuts)
    found: list[object] = []
    try:
        while (raw_head := wire.read_head()) is not None:
            parse_head(raw_head)
            found.append(raw_head)
    except BadHead as error:
        found.append(error.status)
    return found


@PURE
@given(pieces=st.lists(st.sampled_from([START, b"\r\n", b"\r\n", b"\n", b"\r", b"G", b"\0"]), max_size=8), cuts=CUTS)
@example(pieces=[b"\r\n", b"\r\n", START], cuts=[2])
@example(pieces=[b"\r\n", START], cuts=[1, 2])
def test_where_heads_are_cut_decides_nothing(pieces: list[bytes], cuts: list[int]) -> None:
    """Invariant: empty lines between requests, and all else, mean the same in one piece and in many."""
    data = b"".join(pieces)
    assert heads_of(data, cuts) == heads_of(data, [])


def read_chunked(data: bytes, cuts: Sequence[int], most: int = 1_000) -> tuple[bytes, bytes]:
    """The content of a chunked body that follows a head, and what comes after it."""
    wire = wire_of(START + data, cuts)
    assert wire.read_head() == START[:-4]
    body = Body(wire, None, False)
    content = b"".join(iter(lambda: body.read(most), b""))
    assert body.done
    assert body.received == len(content)
    assert body.leaves_connection_usable()
    return content, unread(wire)


EXTENSIONS = st.sampled_from(["", ";", ";a", ";a=b", ' ; a = "b;c"', ";\xff", "\t;a", ";a;b;c", ";" + "x" * 4_000])
TRAILERS = st.lists(st.sampled_from(["A: b", "Content-Length: 5", "X:", "Host: other"]), max_size=3)
SIZES = st.sampled_from([b"%x", b"%X", b"%015x", b"0%x"])


@st.composite
def good_chunks(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Content, and one of the ways to write it as chunks."""
    content = draw(st.lists(st.binary(min_size=1, max_size=300), max_size=5))
    chunks = [b"%b%b\r\n%b\r\n" % (draw(SIZES) % len(x), draw(EXTENSIONS).encode("latin-1"), x) for x in content]
    last = "\r\n".join([draw(st.sampled_from(["0", "000"])) + draw(EXTENSIONS), *draw(TRAILERS), "", ""])
    return b"".join(content), b"".join([*chunks, last.encode("latin-1")])


@PURE
@given(chunks=good_chunks(), cuts=CUTS, most=st.integers(1, 400))
def test_chunks_are_read_however_they_are_written_and_cut(
    chunks: tuple[bytes, bytes], cuts: list[int], most: int
) -> None:
    """Invariant: the content arrives, and the next request begins where the body ends. RFC 9112 7.1."""
    content, written = chunks
    assert read_chunked(written + SMUGGLED, cuts, most) == (content, SMUGGLED)


CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?\r\n")
TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n")


def model_of_chunks(data: bytes) -> Optional[tuple[bytes, bytes]]:
    """RFC 9112 7.1, read from front to end: (content, rest), or None for what is wrong or ends early."""
    at, content = 0, b""
    while line := CHUNK_LINE.match(data, at):
        size, at = int(line[1], 16), line.end()
        if not size:
            while trailer := TRAILER_LINE.match(data, at):
                at = trailer.end()
            return (content, data[at + 2 :]) if data[at : at + 2] == b"\r\n" else None
        content, at = content + data[at : at + size], at + size
        if data[at : at + 2] != b"\r\n":
            return None
        at += 2
    return None


def server_on_chunks(data: bytes, cuts: Sequence[int]) -> Optional[tuple[bytes, bytes]]:
    """The same by the server: None where it refuses, for one of the reasons it may have."""
    try:
        return read_chunked(data, cuts)
    except (Refused, BadHead) as error:
        reason = error.reason
    assert reason in ("chunk-malformed", "body-truncated", "head-malformed")
    return None


CHUNK_GRAMMAR = st.lists(
    st.one_of(
        st.sampled_from([b"0", b"1", b"a", b"F", b"10", b"\r\n", b"\n", b"\r", b" ", b"\t", b";", b"x", b":", b"+"]),
        st.sampled_from([b"-", b"\0", b"\xff", b"1\r\nx\r\n", b"0\r\n\r\n", b"0\r\n", b"A: b\r\n", b"0x", b"_"]),
    ),
    max_size=14,
).map(b"".join)


@settings(deadline=None, max_examples=500)
@given(data=CHUNK_GRAMMAR, cuts=CUTS)
@example(data=b"1 \r\nx\r\n0\r\n", cuts=[])
@example(data=b"0\t\r\n", cuts=[])
def test_chunks_are_good_exactly_when_the_grammar_says_so(data: bytes, cuts: list[int]) -> None:
    """Invariant: a body is read as a plain reading of RFC 9112 7.1 has it, or refused; nothing else is ever raised."""
    assert server_on_chunks(data + b"\r\n", cuts) == model_of_chunks(data + b"\r\n")


@PURE
@given(content=st.binary(max_size=500), beyond=st.binary(max_size=50), cuts=CUTS, most=st.integers(1, 400))
def test_a_body_of_known_length_is_read_to_its_last_byte_and_no_further(
    content: bytes, beyond: bytes, cuts: list[int], most: int
) -> None:
    """Invariant: content and rest are told apart by Content-Length alone. RFC 9112 6.2."""
    wire = wire_of(START + content + beyond, cuts)
    wire.read_head()
    body = Body(wire, len(content), False)
    assert b"".join(iter(lambda: body.read(most), b"")) == content
    assert unread(wire) == beyond


@pytest.mark.parametrize("length", [5, None])
def test_a_body_that_ends_early_is_refused_and_stays_so(length: Optional[int]) -> None:
    """Who asked for more must not take the end of the stream for the end of the body, and nothing can follow it."""
    wire = wire_of(b"5\r\nab" if length is None else b"ab")
    body = Body(wire, length, False)
    assert body.read(100) == b"ab"
    with pytest.raises(Refused, match="body-truncated"):
        body.read(100)
    assert not body.leaves_connection_usable()
    assert not body.drain()


def test_a_chunk_may_be_larger_than_any_body_and_is_refused_by_what_comes() -> None:
    wire = wire_of(b"fffffffffffffff\r\n" + b"x" * 100)
    body = Body(wire, None, False)
    body.limit(99)
    with pytest.raises(Refused, match="body-too-large"):
        body.read(1_000)


# ---- Bodies over the wire (RFC 9112 6 and 7)

BAD_CHUNKS = {
    "no size": b"\r\nx\r\n0\r\n\r\n",
    "not hexadecimal": b"g\r\nx\r\n0\r\n\r\n",
    "signed": b"+1\r\nx\r\n0\r\n\r\n",
    "negative": b"-1\r\nx\r\n0\r\n\r\n",
    "0x": b"0x1\r\nx\r\n0\r\n\r\n",
    "underscore": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "16 digits": b"1" * 16 + b"\r\nx\r\n0\r\n\r\n",
    "space before the size": b" 1\r\nx\r\n0\r\n\r\n",
    "space after the size": b"1 \r\nx\r\n0\r\n\r\n",
    "space after the last size": b"0 \r\n\r\n",
    "LF after the size": b"1\nx\r\n0\r\n\r\n",
    "CR after the size": b"1\rx\r\n0\r\n\r\n",
    "LF in an extension": b"1;a\nb\r\nx\r\n0\r\n\r\n",
    "NUL in an extension": b"1;\0\r\nx\r\n0\r\n\r\n",
    "comma for a semicolon": b"1,a\r\nx\r\n0\r\n\r\n",
    "endless extension": b"1;" + b"a" * 10_000 + b"\r\nx\r\n0\r\n\r\n",
    "endless size": b"0" * 10_000,
    "data too long": b"1\r\nxy\r\n0\r\n\r\n",
    "data too short": b"3\r\nxy\r\n0\r\n\r\n",
    "LF after the data": b"1\r\nx\n0\r\n\r\n",
    "CR after the data": b"1\r\nx\r0\r\n\r\n",
    "CR CR after the data": b"1\r\nx\r\r0\r\n\r\n",
    "an identity body": b"content\r\n",
}
BAD_TRAILERS = {
    "no colon": (b"0\r\nA\r\n\r\n", 400, "head-malformed"),
    "space before the colon": (b"0\r\nA : b\r\n\r\n", 400, "head-malformed"),
    "obs-fold": (b"0\r\nA: b\r\n c\r\n\r\n", 400, "head-malformed"),
    "NUL": (b"0\r\nA: \0\r\n\r\n", 400, "head-malformed"),
    "LF": (b"0\r\nA: b\n\r\n", 400, "head-malformed"),
    "LF for the empty line": (b"0\r\n\n", 400, "head-malformed"),
    "endless": (b"0\r\nA: " + b"b" * 10_000 + b"\r\n\r\n", 400, "chunk-malformed"),
    "101": (b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431, "too-many-fields"),
}


@pytest.mark.parametrize("data", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
def test_a_bad_chunk_is_400_and_ends_the_connection(echo: Running, data: bytes) -> None:
    assert_refused_for_good(echo, post_chunked("/echo", data), 400, "chunk-malformed")


@pytest.mark.parametrize(("data", "status", "reason"), BAD_TRAILERS.values(), ids=BAD_TRAILERS.keys())
def test_a_bad_trailer_ends_the_connection(echo: Running, data: bytes, status: int, reason: str) -> None:
    assert_refused_for_good(echo, post_chunked("/echo", b"1\r\nx\r\n" + data), status, reason)


def test_a_hundred_trailers_pass(echo: Running) -> None:
    with echo.peer() as peer:
        body = b"1\r\nx\r\n0\r\n" + b"A: b\r\n" * 100 + b"\r\n"
        assert peer.send(post_chunked("/echo", body)).reply().body == b"x"
        assert peer.get("/echo").status == 200


def test_endless_trailers_are_refused_at_the_hundred_and_first(echo: Running) -> None:
    with echo.peer() as peer:
        assert peer.send(post_chunked("/echo", b"0\r\n" + b"A: b\r\n" * 101)).reply().status == 431


def test_a_trailer_is_not_taken_for_a_field_of_the_head(server: Running) -> None:
    """RFC 9110 6.5.1: a token that comes after the body came too late."""
    body = b"0\r\nAuthorization: Bearer " + token().encode() + b"\r\n\r\n"
    with server.peer() as peer:
        assert peer.send(post_chunked("/upload", body, FORM_TYPE)).reply().status == 401


@SOCKETS
@given(chunks=good_chunks(), cuts=CUTS)
def test_chunked_bodies_and_the_requests_between_them_arrive_whole(
    echo: Running, chunks: tuple[bytes, bytes], cuts: list[int]
) -> None:
    content, written = chunks
    with echo.peer() as peer:
        data = post_chunked("/echo", written) + post("/echo", b"between") + post_chunked("/echo", written)
        for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)]):
            peer.send(data[begin:end])
        assert [peer.reply().body for _ in range(3)] == [content, b"between", content]


def test_an_upload_may_be_chunked(server: Running) -> None:
    """UP-7; and its connection goes on to be used."""
    body = form(("path", None, "a"), ("file0", "b.bin", b"\r\n--" * 50_000))
    blocks = [body[at : at + 7_001] for at in range(0, len(body), 7_001)]
    with server.peer() as peer:
        peer.send(post_chunked("/upload", chunked(blocks), f"Authorization: {token()}", FORM_TYPE))
        assert peer.reply().status == 200
        assert peer.get("/a/b.bin").body == b"\r\n--" * 50_000


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_that_ends_early_is_400(echo: Running, framing: str) -> None:
    """UP-4: a body shorter than declared."""
    with echo.peer() as peer:
        peer.send(raw("POST /echo HTTP/1.1", framing, body=b"64\r\nonly this"))
        peer.socket.shutdown(socket.SHUT_WR)
        reply = peer.reply()
        assert (reply.status, reply.fields["connection"]) == (400, "close")
        assert peer.rest() == b""
    assert accesses(echo)[0]["reason"] == "body-truncated"


# ---- Pipelining (DL-8, RFC 9112 9.3.2)


def test_a_hundred_requests_in_one_write_get_a_hundred_answers(server: Running) -> None:
    requests, expected = [], []
    for number in range(100):
        requests.append(raw(f"GET /{'robots.txt' if number % 2 else number} HTTP/1.1"))
        expected.append(b"User-agent: *\nDisallow: /\n" if number % 2 else f"Not Found: {number}".encode())
    with server.peer() as peer:
        peer.send(b"".join(requests))
        assert [peer.reply().body for _ in range(100)] == expected
        assert peer.get("/").status == 200


REQUESTS = st.sampled_from(["known", "chunked", "unread", "GET with a body", "HEAD", "404", "empty"])


@SOCKETS
@given(kinds=st.lists(REQUESTS, min_size=1, max_size=12), content=st.binary(max_size=300), cuts=CUTS)
def test_pipelined_requests_are_answered_in_their_order(
    echo: Running, kinds: list[str], content: bytes, cuts: list[int]
) -> None:
    """Invariant: whatever requests follow each other, with or without bodies, each gets its own answer."""
    told = {
        "known": (post("/echo", content), content),
        "chunked": (post_chunked("/echo", chunked([b"x", b"y" * 20])), b"x" + b"y" * 20),
        "unread": (post("/ignore", content), b"ignored"),
        "GET with a body": (raw("GET /echo HTTP/1.1", f"Content-Length: {len(content)}", body=content), content),
        "HEAD": (raw("HEAD /ignore HTTP/1.1"), b""),
        "404": (post("/nowhere", SMUGGLED), b"Method is not allowed here"),
        "empty": (post("/echo", b""), b""),
    }
    data = b"".join(told[kind][0] for kind in kinds)
    with echo.peer() as peer:
        for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)]):
            peer.send(data[begin:end])
        for kind in kinds:
            reply = peer.reply(head_only=kind == "HEAD")
            assert reply.body == told[kind][1], kind
            assert "connection" not in reply.fields


def test_a_client_that_has_said_all_and_ended_gets_its_answers(echo: Running) -> None:
    """A half-closed connection, as `printf ... | nc -N` makes one."""
    with echo.peer() as peer:
        peer.send(post("/echo", b"a") + post_chunked("/echo", chunked([b"b"])) + post("/ignore", b"c"))
        peer.socket.shutdown(socket.SHUT_WR)
        assert [peer.reply().body for _ in range(3)] == [b"a", b"b", b"ignored"]
        assert peer.rest() == b""


def test_uploads_can_be_pipelined(server: Running) -> None:
    with server.peer() as peer:
        for number in range(5):
            body = form(("path", None, "a"), ("file0", f"{number}.txt", f"content {number}"))
            peer.send(post("/upload", body, FORM_TYPE, f"Authorization: {token()}"))
            peer.send(raw(f"GET /a/{number}.txt HTTP/1.1"))
        replies = [peer.reply() for _ in range(10)]
    assert [reply.body for reply in replies[1::2]] == [f"content {number}".encode() for number in range(5)]


# ---- Bodies that nobody reads


@pytest.mark.parametrize("size", [1, 5_000, kcistorage.READ_BYTES])
def test_the_small_body_of_a_refused_request_is_skipped(server: Running, size: int) -> None:
    body = (SMUGGLED * (size // len(SMUGGLED) + 1))[:size]
    with server.peer() as peer:
        peer.send(post("/upload", body) + raw("GET /robots.txt HTTP/1.1"))
        assert peer.reply().status == 401
        assert peer.reply().text.startswith("User-agent")
    assert [line["target"] for line in accesses(server)] == ["/upload", "/robots.txt"]


@pytest.mark.parametrize("size", [kcistorage.READ_BYTES + 1, 2 << 20])
def test_the_large_body_of_a_refused_request_ends_the_connection(server: Running, size: int) -> None:
    """And the request behind it is never executed: the answer said `close`, RFC 9112 9.6."""
    body = (SMUGGLED * (size // len(SMUGGLED) + 1))[:size]
    with server.peer() as peer:
        peer.send(post("/upload", body) + raw("GET /robots.txt HTTP/1.1"))
        reply = peer.reply()
        assert (reply.status, reply.fields["connection"]) == (401, "close")
        assert peer.rest() == b""
    assert [line["target"] for line in accesses(server)] == ["/upload"]


@pytest.mark.parametrize("body", [chunked([SMUGGLED]), chunked([SMUGGLED] * 20_000), b"0\r\n\r\n"])
def test_an_unread_chunked_body_ends_the_connection(echo: Running, body: bytes) -> None:
    """How long it will be nobody knows."""
    with echo.peer() as peer:
        peer.send(post_chunked("/ignore", body) + SMUGGLED)
        reply = peer.reply()
        assert (reply.body, reply.fields["connection"]) == (b"ignored", "close")
        assert peer.rest() == b""
    assert [line["target"] for line in accesses(echo)] == ["/ignore"]


def test_a_get_may_have_a_body(server: Running) -> None:
    with server.peer() as peer:
        for _ in range(3):
            assert peer.ask("GET", "/", body=SMUGGLED).status == 200
            assert peer.ask("HEAD", "/", body=SMUGGLED).status == 200
    assert {line["target"] for line in accesses(server)} == {"/"}


def test_a_skipped_body_that_never_comes_ends_the_connection(echo: Running) -> None:
    with echo.peer() as peer:
        peer.send(raw("POST /ignore HTTP/1.1", "Content-Length: 10", body=b"12345"))
        assert peer.reply().body == b"ignored"
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.rest() == b""


def test_what_follows_a_close_is_not_executed(echo: Running) -> None:
    """RFC 9112 9.6: the client said that this was its last request."""
    with echo.peer() as peer:
        peer.send(raw("GET /ignore HTTP/1.1", "Connection: close") + post("/echo", b"executed"))
        assert peer.reply().body == b"ignored"
        assert peer.rest() == b""
    assert [line["target"] for line in accesses(echo)] == ["/ignore"]


# ---- Persistence (RFC 9112 9.3) and HTTP/1.0


@pytest.mark.parametrize(
    ("version", "fields", "told"),
    [
        ("1.1", [], None),
        ("1.1", ["Connection: keep-alive"], None),
        ("1.1", ["Connection: close"], "close"),
        ("1.1", ["Connection: foo, Close"], "close"),
        ("1.1", ["Connection: keep-alive", "Connection: close"], "close"),
        ("1.0", [], "close"),
        ("1.0", ["Connection: close"], "close"),
        ("1.0", ["Connection: Keep-Alive"], "keep-alive"),
        ("1.2", [], None),
    ],
)
def test_a_connection_goes_on_when_both_sides_say_so(
    echo: Running, version: str, fields: list[str], told: Optional[str]
) -> None:
    with echo.peer() as peer:
        peer.send(raw(f"GET /ignore HTTP/{version}", *fields))
        reply = peer.reply()
        assert (reply.body, reply.fields.get("connection")) == (b"ignored", told)
        if told == "close":
            assert peer.rest() == b""
        else:
            assert peer.send(raw("GET /ignore HTTP/1.1")).reply().body == b"ignored"


def test_an_http_1_0_client_needs_no_host(server: Running) -> None:
    """What nginx sends to a backend, and `GET / HTTP/1.0` by hand."""
    with server.peer() as peer:
        reply = peer.send(b"GET / HTTP/1.0\r\n\r\n").reply()
        assert (reply.status, reply.fields["connection"]) == (200, "close")
        assert peer.rest() == b""


def test_nginx_in_front_speaks_http_1_0(server: Running) -> None:
    """Upload, download and list through `proxy_pass` with its defaults: one connection for each request."""
    body = form(("path", None, "a"), ("file0", "b.txt", "content"))
    upload = [f"Content-Length: {len(body)}", FORM_TYPE, f"Authorization: {token()}", "Connection: close"]
    with server.peer() as peer:
        assert peer.send(raw("POST /upload HTTP/1.0", *upload, body=body)).reply().status == 200
    with server.peer() as peer:
        reply = peer.send(raw("GET /a/b.txt HTTP/1.0", "Connection: close")).reply()
        assert (reply.body, reply.fields["content-length"]) == (b"content", "7")
    with server.peer() as peer:
        reply = peer.send(raw("GET /v1/list HTTP/1.0", "Connection: close")).reply()
        assert (reply.body, reply.fields.get("transfer-encoding")) == (b"a/b.txt\n", None)


# ---- Expect: 100-continue (UP-7, RFC 9110 10.1.1)

EXPECT = "Expect: 100-continue"


def upload_head(size: int, *fields: str, body: bytes = b"") -> bytes:
    return raw("POST /upload HTTP/1.1", f"Content-Length: {size}", FORM_TYPE, *fields, body=body)


def test_a_client_that_waits_is_told_to_go_on_once_its_token_is_known_to_be_good(server: Running) -> None:
    """LAVA's curl waits for it a second before it sends the body anyway."""
    body = form(("path", None, "a"), ("file0", "b.txt", "content"))
    with server.peer() as peer:
        peer.send(upload_head(len(body), f"Authorization: {token()}", EXPECT))
        assert peer.reply() == Reply(100, {}, b"")
        assert peer.send(body).reply().status == 200
        assert peer.get("/a/b.txt").body == b"content"


@pytest.mark.parametrize("sends", [False, True], ids=["and goes away", "and sends all the same"])
def test_a_client_that_waits_is_refused_without_100(server: Running, sends: bool) -> None:
    """A body that was not asked for may come or not: after the answer nothing else can be told from it."""
    with server.peer() as peer:
        peer.send(upload_head(len(SMUGGLED), "Authorization: nonsense", EXPECT))
        reply = peer.reply()
        assert (reply.status, reply.fields["connection"]) == (401, "close")
        if sends:
            peer.send(SMUGGLED)
        assert peer.rest() == b""
    assert [line["status"] for line in accesses(server)] == ["401"]


def test_a_client_that_waits_is_refused_for_its_length_without_100(start: Start) -> None:
    server = start(limits=LimitOptions(upload_bytes=1_000))
    with server.peer() as peer:
        reply = peer.send(upload_head(1 << 30, f"Authorization: {token()}", EXPECT)).reply()
        assert (reply.status, reply.fields["connection"]) == (413, "close")


def test_a_client_that_did_not_wait_gets_no_100(echo: Running) -> None:
    with echo.peer() as peer:
        assert peer.send(post("/echo", b"body", EXPECT)).reply().status == 200
        assert peer.get("/ignore").status == 200


def test_a_chunked_body_may_be_waited_with_too(echo: Running) -> None:
    with echo.peer() as peer:
        assert peer.send(post_chunked("/echo", b"", EXPECT)).reply().status == 100
        assert peer.send(chunked([b"body"])).reply().body == b"body"
        assert peer.get("/ignore").status == 200


@pytest.mark.parametrize(("version", "length"), [("1.0", 4), ("1.1", 0)])
def test_there_is_no_100_for_http_1_0_or_without_a_body(echo: Running, version: str, length: int) -> None:
    with echo.peer() as peer:
        peer.send(raw(f"POST /echo HTTP/{version}", f"Content-Length: {length}", EXPECT))
        peer.send(b"body"[:length])
        assert peer.reply().status == 200


def test_a_handler_that_does_not_read_sends_no_100(echo: Running) -> None:
    with echo.peer() as peer:
        reply = peer.send(raw("POST /ignore HTTP/1.1", "Content-Length: 5", EXPECT)).reply()
        assert (reply.body, reply.fields["connection"]) == (b"ignored", "close")
        assert peer.rest() == b""


# ---- TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command makes the certificate")
    folder = tmp_path_factory.mktemp("ssl")
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(["openssl", *request.split(), *files], check=True, capture_output=True)
    return folder


class Secure(NamedTuple):
    """What both ends of a TLS connection need."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture
def tls(certificate: Path) -> Secure:
    server = kcistorage.tls_context(str(certificate))
    assert server is not None
    return Secure(server, ssl.create_default_context(cafile=str(certificate / "cert.pem")))


Dial = Callable[[Running], Peer]


@pytest.fixture(params=["plain", "TLS"])
def both(request: pytest.FixtureRequest, start: Start) -> tuple[Start, Dial]:
    """Starts servers and opens connections to them, once in the clear and once over TLS."""
    if request.param == "plain":
        return start, Running.peer
    tls: Secure = request.getfixturevalue("tls")

    def start_secure(**changes: object) -> Running:
        return start(tls=tls.server, **changes)

    return start_secure, lambda server: server.peer().secure(tls.client)


def test_the_whole_way_over_tls(start: Start, tls: Secure) -> None:
    server = start(tls=tls.server)
    content = os.urandom(3 << 20)
    with server.peer().secure(tls.client) as peer:
        assert peer.upload(token(), "a", "b.bin", content).status == 200
        assert peer.get("/a/b.bin").body == content
        assert peer.get("/a/b.bin", "Range: bytes=1000000-2999999").body == content[1_000_000:3_000_000]
        peer.send(raw("GET /a/b.bin HTTP/1.1") + raw("GET /robots.txt HTTP/1.1"))
        assert [len(peer.reply().body) for _ in range(2)] == [len(content), 26]


def test_a_silent_client_does_not_stall_the_others(start: Start, tls: Secure) -> None:
    """The handshake is the business of the connection's own thread, not of the one that accepts."""
    server = start(tls=tls.server)
    with contextlib.ExitStack() as silent:
        for _ in range(5):
            silent.enter_context(server.peer())
        with server.peer().secure(tls.client) as peer:
            assert peer.get("/").status == 200


def test_a_handshake_that_is_never_finished_is_given_up(start: Start, tls: Secure) -> None:
    server = start(tls=tls.server, limits=QUICK_HEAD)
    with server.peer() as silent, server.peer() as stalled:
        stalled.send(b"\x16\x03\x01\x02\x00\x01\x00")
        assert silent.rest() == stalled.rest() == b""
    assert accesses(server) == []


@pytest.mark.parametrize(
    "data", [raw("GET / HTTP/1.1"), bytes(range(255, 155, -1)), b"\x16\x03\x01\x00\x05hello"], ids=repr
)
def test_what_is_not_tls_on_a_tls_port_is_turned_away(start: Start, tls: Secure, data: bytes) -> None:
    server = start(tls=tls.server)
    with server.peer() as peer:
        peer.send(data)
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP/1.1 200" not in peer.rest()
    server.wait_for_log("event=disconnect")
    assert accesses(server) == []


def test_an_answer_without_a_length_ends_with_close_notify(start: Start, tls: Secure) -> None:
    """RFC 9112 9.8: else a client cannot tell the end of the answer from a cut cable, and OpenSSL reports an error."""
    server = start(tls=tls.server)
    (server.storage / "a.txt").write_text("content")
    with server.peer() as peer:
        peer.socket = tls.client.wrap_socket(peer.socket, server_hostname="localhost", suppress_ragged_eofs=False)
        peer.send(raw("GET /v1/list HTTP/1.0"))
        assert peer.reply().body == b"a.txt\n"


# ---- Closing in a way that the client sees the answer (UP-11, RFC 9112 9.6)

LARGE = 8 << 20
BANNED = "User-Agent: Mozilla/5.0 (compatible; AhrefsBot/7.0)"


def large(*fields: str, line: str = "POST /upload HTTP/1.1", body: bytes = b"") -> bytes:
    return raw(line, f"Content-Length: {LARGE}", *fields, body=body + bytes(LARGE - len(body)))


ELSEWHERE = part("path", None, "elsewhere") + part("file0", "a.txt", b"")[:-2]
GOOD_TOKEN = f"Authorization: {token()}"
LARGE_REFUSED = {
    "401": (large(FORM_TYPE), 401, "token-missing"),
    "403 user-agent": (large(FORM_TYPE, GOOD_TOKEN, BANNED), 403, "useragent-ban"),
    "403 path": (large(FORM_TYPE, GOOD_TOKEN, body=ELSEWHERE), 403, "not-permitted"),
    "413": (large(FORM_TYPE, GOOD_TOKEN), 413, "body-too-large"),
    "413 chunked": (
        post_chunked("/upload", b"800000\r\n" + part("file0", "a", bytes(LARGE)), FORM_TYPE, GOOD_TOKEN),
        413,
        "file-too-large",
    ),
    "400 form": (large(FORM_TYPE, GOOD_TOKEN, line="POST /v1/file HTTP/1.1"), 400, "form-malformed"),
    "400 chunk": (
        post_chunked("/upload", b"nonsense\r\n" + bytes(LARGE), FORM_TYPE, GOOD_TOKEN),
        400,
        "chunk-malformed",
    ),
    "400 head": (large("Content-Length: 5"), 400, "head-malformed"),
    "405": (large(line="POST / HTTP/1.1"), 405, "method-not-allowed"),
    "501": (large(line="BREW /pot HTTP/1.1"), 501, "method-unknown"),
}


@pytest.mark.parametrize(("data", "status", "reason"), LARGE_REFUSED.values(), ids=LARGE_REFUSED.keys())
def test_a_client_that_writes_all_before_it_reads_sees_the_refusal(
    both: tuple[Start, Dial], data: bytes, status: int, reason: str
) -> None:
    """UP-11: not a connection reset, which tells nobody that the token has expired."""
    start, dial = both
    most = 1_000 if status == 413 else 4 << 30
    server = start(limits=LimitOptions(upload_bytes=most), users=(kcistorage.User("lab@example.org", ("mine/",)),))
    with dial(server) as peer:
        reply = peer.send(data).reply()
        assert (reply.status, reply.fields["connection"]) == (status, "close")
        assert peer.rest() == b""
    assert [(line["status"], line["reason"]) for line in accesses(server)] == [(str(status), reason)]
    assert not any(path.is_file() for path in server.storage.glob("[!.]*"))


def test_a_refused_client_that_stays_is_left_after_a_while(
    both: tuple[Start, Dial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kcistorage, "LINGER_IDLE", 0.2)
    start, dial = both
    server = start()
    with dial(server) as peer:
        assert peer.send(raw("GET / HTTP/1.1", "Connection: close")).reply().status == 200
        rest_ends(server)


def write_on(peer: Peer) -> None:
    """Writes a little now and then, for longer than any server has to bear it."""
    for _ in range(5_000):
        peer.send(b"x")
        threading.Event().wait(0.001)


def test_a_refused_client_that_never_stops_writing_is_left_after_a_while(
    echo: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kcistorage, "LINGER_TOTAL", 0.3)
    with echo.peer() as peer:
        assert peer.send(b"nonsense\r\n\r\n").reply().status == 400
        with pytest.raises(ConnectionError):
            write_on(peer)
    rest_ends(echo)


# ---- Time-outs


def test_limits_unless_configured(server: Running) -> None:
    assert server.server.limits == kcistorage.Limits(head=10, body_idle=60, keep_alive=30)
    assert server.server.max_connections == 1_000


def pace(peer: Peer, data: bytes, seconds: float) -> bool:
    """Sends byte after byte, this often; says whether the server answered before the last one."""
    peer.socket.settimeout(seconds)
    for at in range(len(data)):
        peer.send(data[at : at + 1])
        with contextlib.suppress(socket.timeout):
            peer.buffer += peer.socket.recv(1_000)
            break
    peer.socket.settimeout(10)
    return bool(peer.buffer)


@pytest.mark.parametrize(
    ("limits", "before"),
    [
        (QUICK_HEAD, b""),
        (QUICK_REST, raw("GET / HTTP/1.1") * 2),
        (QUICK_REST, raw("GET / HTTP/1.1") + post("/", b"form") + b"\r\n"),
    ],
    ids=["new", "used", "after an empty line"],
)
def test_an_idle_connection_is_closed_without_a_word(
    both: tuple[Start, Dial], limits: LimitOptions, before: bytes
) -> None:
    """An answer that nobody asked for would be taken for that to the next request. RFC 9112 9.5"""
    start, dial = both
    server = start(limits=limits)
    with dial(server) as peer:
        began = time.monotonic()
        peer.send(before)
        for _ in range(before.count(b"HTTP/1.1")):
            assert peer.reply().status in (200, 405)
        assert peer.rest() == b""
        assert IMPATIENT / 2 < time.monotonic() - began < 5
    assert len(accesses(server)) == before.count(b"HTTP/1.1")


@pytest.mark.parametrize("before", [b"", raw("GET / HTTP/1.1")], ids=["the first", "the second"])
def test_a_head_that_stays_unfinished_is_408(both: tuple[Start, Dial], before: bytes) -> None:
    start, dial = both
    server = start(limits=QUICK_HEAD)
    with dial(server) as peer:
        began = time.monotonic()
        peer.send(before + b"GET / HTTP/1.1\r\nHost:")
        assert not before or peer.reply().status == 200
        reply = peer.reply()
        assert (reply.status, reply.fields["connection"]) == (408, "close")
        assert IMPATIENT / 2 < time.monotonic() - began < 5
        assert peer.rest() == b""
    assert accesses(server)[-1]["reason"] == "head-timeout"


def test_a_head_that_comes_in_drops_is_408(both: tuple[Start, Dial]) -> None:
    """A head has its time from the first byte on, and not from the latest."""
    start, dial = both
    server = start(limits=QUICK_HEAD)
    with dial(server) as peer:
        assert pace(peer, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20, 0.05)
        assert peer.reply().status == 408
    assert accesses(server)[0]["reason"] == "head-timeout"


BODIES = {
    "length": raw("POST /echo HTTP/1.1", "Content-Length: 10", body=b"12345"),
    "nothing of it": raw("POST /echo HTTP/1.1", "Content-Length: 10"),
    "in a chunk": post_chunked("/echo", b"a\r\n12345"),
    "before a chunk": post_chunked("/echo", b"5\r\n12345\r\n"),
    "in a size": post_chunked("/echo", b"5\r\n12345\r\n1"),
    "in a trailer": post_chunked("/echo", b"0\r\nA: b"),
}


@pytest.mark.parametrize("data", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_stops_is_408(start: Start, data: bytes) -> None:
    """UP-9: an upload that sends nothing for a while is dropped."""
    server = use_echo(start(limits=QUICK_BODY))
    with server.peer() as peer:
        began = time.monotonic()
        reply = peer.send(data).reply()
        assert (reply.status, reply.fields["connection"]) == (408, "close")
        assert IMPATIENT / 2 < time.monotonic() - began < 5
        assert peer.rest() == b""
    assert accesses(server)[0]["reason"] == "body-timeout"


def test_an_upload_that_stops_is_408_and_frees_its_key(both: tuple[Start, Dial]) -> None:
    """UP-9; and leaves no trace (UP-8)."""
    start, dial = both
    server = start(limits=QUICK_BODY)
    with dial(server) as stalled:
        stalled.send(upload_head(1_000, GOOD_TOKEN, body=part("path", None, "a") + part("file0", "b.txt", "content")))
        assert stalled.reply().status == 408
    with dial(server) as peer:
        assert peer.get("/a/b.txt").status == 404
        assert peer.upload(token(), "a", "b.txt", b"content").status == 200
    assert sorted(line["status"] for line in accesses(server)) == ["200", "404", "408"]  # a line follows its answer


def test_a_body_may_take_its_time_as_long_as_it_moves(both: tuple[Start, Dial]) -> None:
    """A lab behind a thin line: the limit is on silence, not on the whole."""
    start, dial = both
    server = use_echo(start(limits=QUICK_BODY))
    with dial(server) as peer:
        peer.send(raw("POST /echo HTTP/1.1", "Content-Length: 7"))
        assert not pace(peer, b"123456", 0.1)
        assert peer.send(b"7").reply().body == b"1234567"


def sparse(server: Running, name: str, size: int) -> None:
    """An object of zeros that takes no space, put there by hand."""
    with open(server.storage / name, "wb") as file:
        file.truncate(size)


def test_a_download_that_nobody_reads_is_given_up(both: tuple[Start, Dial]) -> None:
    start, dial = both
    server = start(limits=QUICK_BODY)
    sparse(server, "a.bin", 256 << 20)
    with dial(server) as peer:
        peer.send(raw("GET /a.bin HTTP/1.1"))
        line = values(server.wait_for_log("reason=client-gone"))
        assert (line["status"], line["target"]) == ("200", "/a.bin")
        assert int(line["bytes"]) < 256 << 20


# ---- More connections than may be


def test_a_connection_too_many_is_503_until_another_has_gone(both: tuple[Start, Dial]) -> None:
    start, dial = both
    server = start(limits=LimitOptions(connections=2))
    with dial(server) as first, dial(server) as second:
        assert first.get("/").status == second.get("/").status == 200
        with dial(server) as third:
            reply = third.reply()
            assert (reply.status, reply.fields["connection"], reply.fields["retry-after"]) == (503, "close", "1")
            assert third.rest() == b""
        with dial(server) as third:
            assert third.send(large()).reply().status == 503
        assert first.get("/").status == 200, "who is in is served on"
        first.socket.close()
        until(lambda: server.server.connections == 1, "the first is out")
        with dial(server) as fourth:
            assert fourth.get("/").status == 200
    refused = [line for line in accesses(server) if line["status"] == "503"]
    assert [(line["ip"], line["reason"]) for line in refused] == [("127.0.0.1", "too-many-connections")] * 2


def test_far_too_many_connections_are_shut_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telling them takes a thread each, of which there must be an end."""
    monkeypatch.setattr(kcistorage, "REFUSAL_SLOTS", 1)
    server = start(limits=LimitOptions(connections=1))
    with server.peer() as first:
        assert first.get("/").status == 200
        with server.peer() as second:
            assert second.reply().status == 503
            for _ in range(3):
                with server.peer() as beyond, contextlib.suppress(ConnectionResetError):
                    assert beyond.rest() == b""
        until(lambda: server.server.connections == 1, "the second is out")
        with server.peer() as third:
            assert third.reply().status == 503
    assert [line["status"] for line in accesses(server)].count("503") == 2


def test_a_crowd_is_let_in_while_the_server_is_busy(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backlog holds more than http.server's five: what does not fit is dropped, and tried again a second later."""
    accept, free = socketserver.TCPServer.get_request, threading.Event()

    def get_request(self: socketserver.TCPServer) -> object:
        assert free.wait(10)
        return accept(self)

    monkeypatch.setattr(socketserver.TCPServer, "get_request", get_request)
    with contextlib.ExitStack() as crowd:
        peers = [crowd.enter_context(server.peer(0.9)) for _ in range(100)]
        free.set()
        for peer in peers:
            peer.socket.settimeout(10)
            peer.send(raw("GET / HTTP/1.1"))
        assert [peer.reply().status for peer in peers] == [200] * 100


def test_nagles_algorithm_is_off(both: tuple[Start, Dial]) -> None:
    """Measured: with it, an answer in two writes takes 40 ms."""
    start, dial = both
    server = start()
    with dial(server) as peer:
        assert peer.get("/").status == 200
        (connection,) = server.server._open
        assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# ---- Clients that vanish


def vanish(peer: Peer) -> None:
    """Leaves with a reset, as a machine does that lost its power and came back."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


VANISHING = {
    "in a body": raw("POST /echo HTTP/1.1", "Content-Length: 10", body=b"12345"),
    "in a chunk": post_chunked("/echo", b"a\r\n12345"),
    "in a chunk line": post_chunked("/echo", b"a"),
}


@pytest.mark.parametrize("data", VANISHING.values(), ids=VANISHING.keys())
def test_a_client_that_vanishes_from_a_body_is_no_fault_and_leaves_nothing_open(
    both: tuple[Start, Dial], data: bytes
) -> None:
    """The status is nginx's 499. Over TLS some versions of Python cannot tell a reset from an end: then it is 400."""
    start, dial = both
    entered = threading.Event()
    server = use_echo(start(), lambda exchange: entered.set())
    before = open_files()
    with dial(server) as peer:
        peer.send(data)
        assert entered.wait(5)
        vanish(peer)
    assert [line["status"] for line in accesses(server)] in (["499"], ["400"] if server.tls else [])
    until(lambda: open_files() <= before, "no descriptor is left open")


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHo"], ids=["before anything", "in the head"])
def test_a_client_that_vanishes_without_a_request_is_not_even_logged(both: tuple[Start, Dial], data: bytes) -> None:
    start, dial = both
    server = start()
    with dial(server) as peer:
        peer.send(data)
        until(lambda: server.server.connections == 1, "it is in")
        vanish(peer)
    assert accesses(server) == []


@pytest.mark.parametrize(
    "data",
    [raw("POST /ignore HTTP/1.1", "Content-Length: 10", body=b"12345"), raw("GET / HTTP/1.1", "A : b")],
    ids=["while its body is skipped", "while it is refused"],
)
def test_a_client_that_vanishes_after_its_answer_is_no_fault(both: tuple[Start, Dial], data: bytes) -> None:
    start, dial = both
    server = use_echo(start())
    with dial(server) as peer:
        assert peer.send(data).reply().status in (200, 400)
        vanish(peer)
    assert len(accesses(server)) == 1


def test_a_client_that_vanishes_before_its_refusal_is_no_fault(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> NoReturn:
        raise kcistorage.Disconnected

    monkeypatch.setattr(Wire, "send", gone)
    with server.peer() as peer:
        assert peer.send(raw("GET / HTTP/1.1", "A : b")).rest() == b""
    assert [(line["status"], line["reason"]) for line in accesses(server)] == [("400", "head-malformed")]


def test_a_client_that_vanishes_during_the_handshake_is_no_fault(start: Start, tls: Secure) -> None:
    server = start(tls=tls.server)
    before = open_files()
    with server.peer() as peer:
        peer.send(b"\x16\x03\x01\x02\x00\x01\x00")
        until(lambda: server.server.connections == 1, "it is in")
        vanish(peer)
    assert accesses(server) == []
    until(lambda: open_files() <= before, "no descriptor is left open")


def test_a_client_that_vanishes_from_a_download_is_no_fault(both: tuple[Start, Dial]) -> None:
    start, dial = both
    server = start()
    sparse(server, "a.bin", 256 << 20)
    before = open_files()
    with dial(server) as peer:
        peer.send(raw("GET /a.bin HTTP/1.1")).take(1_000)
        vanish(peer)
    line = accesses(server)[0]
    assert (line["status"], line["reason"]) == ("200", "client-gone")
    assert int(line["bytes"]) < 256 << 20
    until(lambda: open_files() <= before, "no descriptor is left open")


def test_a_client_that_vanishes_from_a_stream_ends_its_source(both: tuple[Start, Dial]) -> None:
    start, dial = both
    closed = threading.Event()

    def endless() -> Generator[bytes, None, None]:
        try:
            while True:
                yield bytes(100_000)
        finally:
            closed.set()

    server = serve(start(), lambda exchange: Answer(200, (), StreamBody(endless())))
    with dial(server) as peer:
        peer.send(raw("GET / HTTP/1.1")).take(1_000)
        vanish(peer)
    assert closed.wait(10)
    assert accesses(server)[0]["reason"] == "client-gone"


def test_an_uploader_that_vanishes_frees_its_key_at_once(server: Running) -> None:
    """UP-9; and leaves no trace (UP-8)."""
    head = part("path", None, "a") + part("file0", "b.txt", b"")[:-2]
    with server.peer() as gone, server.peer() as next_one:
        gone.send(upload_head(1 << 20, GOOD_TOKEN, EXPECT))
        assert gone.reply().status == 100
        gone.send(head + bytes(300_000))
        vanish(gone)
        assert next_one.upload(token(), "a", "b.txt", b"content").status == 200
        assert next_one.get("/v1/list").text == "a/b.txt\n"
    assert "499" in {line["status"] for line in accesses(server)}


# ---- Which methods are known where: ST-1 and ST-2

ROUTES = {
    "/": "GET, HEAD",
    "/robots.txt": "GET, HEAD",
    "/favicon.ico": "GET, HEAD",
    "/v1/checkauth": "GET, HEAD",
    "/v1/list": "GET, HEAD",
    "/v1/list?prefix=a": "GET, HEAD",
    "/metrics": "GET, HEAD",
    "/upload": "POST",
    "/v1/file": "POST",
    "/any/object.txt": "GET, HEAD",
}


@pytest.mark.parametrize(("path", "allowed"), ROUTES.items())
def test_a_wrong_method_is_405_and_is_told_the_right_ones(server: Running, path: str, allowed: str) -> None:
    with server.peer() as peer:
        for method in sorted(kcistorage.KNOWN_METHODS - {*allowed.split(", "), "CONNECT"}):
            reply = peer.ask(method, path)
            assert (reply.status, reply.fields["allow"]) == (405, allowed), method


@pytest.mark.parametrize("method", ["BREW", "get", "GETS", "PROPFIND", "!"])
def test_an_unknown_method_is_501(server: Running, method: str) -> None:
    with server.peer() as peer:
        for path in ROUTES:
            assert peer.ask(method, path).status == 501


def test_options_of_the_whole_server_is_understood(server: Running) -> None:
    with server.peer() as peer:
        assert peer.ask("OPTIONS", "*").status == 405


@pytest.mark.parametrize("fields", [[], ["Range: bytes=0-1"], ["If-None-Match: *"]], ids=str)
def test_head_is_get_without_the_body(server: Running, fields: list[str]) -> None:
    """RFC 9110 9.3.2: the same fields, Content-Length too, and the next answer follows at once."""
    changing = {"date", "content-length", "content-range"}  # of /metrics, which counts this very request
    with server.peer() as peer:
        assert peer.upload(token(), "any", "object.txt", b"content").status == 200
        for path, allowed in [*ROUTES.items(), ("/missing", "GET, HEAD")]:
            got = peer.get(path, *(fields if "Range" not in "".join(fields) else []))
            told = peer.ask("HEAD", path, *fields)
            same = set(told.fields) - (changing if path == "/metrics" else {"date"})
            assert (told.status, told.body) == (got.status, b""), path
            assert set(told.fields) == set(got.fields)
            assert {name: told.fields[name] for name in same} == {name: got.fields[name] for name in same}, allowed


def test_every_answer_says_when_and_by_whom(server: Running) -> None:
    """RFC 9110 6.6.1, 10.2.4."""
    with server.peer() as peer:
        replies = [peer.get("/"), peer.get("/missing"), peer.ask("BREW", "/"), peer.send(b"nonsense\r\n\r\n").reply()]
    for reply in replies:
        assert abs(parsedate_to_datetime(reply.fields["date"]).timestamp() - time.time()) < 10
        assert reply.fields["date"].endswith(" GMT")
        assert reply.fields["server"] == f"kcistorage/{kcistorage.__version__}"


# ---- Streams: answers whose length nobody knows (RFC 9112 7.1, 6.3)


STREAMS = {
    "several": [b"ab", b"c" * 100_000, b"d"],
    "one": [b"ab"],
    "none": [],
    "empty ones": [b"", b"a", b"", b"", b"b", b""],
}


@pytest.mark.parametrize("blocks", STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_is_chunked_in_http_1_1(server: Running, blocks: list[bytes]) -> None:
    """An empty block must not be written: it would be the last chunk."""
    serve(server, lambda exchange: stream(*blocks))
    with server.peer() as peer:
        for _ in range(2):
            reply = peer.get("/")
            assert (reply.body, reply.fields["transfer-encoding"]) == (b"".join(blocks), "chunked")
            assert "content-length" not in reply.fields
        told = peer.ask("HEAD", "/")
        assert (told.status, told.fields["transfer-encoding"]) == (200, "chunked")


@pytest.mark.parametrize("fields", [[], ["Connection: keep-alive"]])
@pytest.mark.parametrize("blocks", STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_ends_with_the_connection_in_http_1_0(server: Running, blocks: list[bytes], fields: list[str]) -> None:
    serve(server, lambda exchange: stream(*blocks))
    with server.peer() as peer:
        reply = peer.send(raw("GET / HTTP/1.0", *fields)).reply()
        assert (reply.body, reply.fields["connection"]) == (b"".join(blocks), "close")
        assert not {"transfer-encoding", "content-length"} & set(reply.fields)


def test_a_stream_of_known_length_is_not_chunked(server: Running) -> None:
    serve(server, lambda exchange: stream(b"ab", b"cd", length=4))
    with server.peer() as peer:
        for _ in range(2):
            reply = peer.get("/")
            assert (reply.body, reply.fields["content-length"]) == (b"abcd", "4")


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_cannot_have_a_body_has_none(server: Running, status: int) -> None:
    """RFC 9110 6.4.1; nor a Content-Length of its own."""
    serve(server, lambda exchange: Answer(status, (), b"none of it"))
    with server.peer() as peer:
        for _ in range(2):
            reply = peer.get("/")
            assert (reply.status, set(reply.fields)) == (status, {"date", "server"})


# ---- Files

CONTENT = bytes(range(256)) * 2_000
SPANS = {
    "small": [(3, 1_000)],
    "empty": [(7, 7)],
    "large": [(3, 500_000)],
    "several, as multipart/byteranges": [b"head", (0, 5), b"between", (3, 100_000), (0, 1), b"end"],
}


@pytest.mark.parametrize("pieces", SPANS.values(), ids=SPANS.keys())
def test_spans_of_a_file_and_bytes_between_them(
    both: tuple[Start, Dial], pieces: list[Union[bytes, kcistorage.Span]]
) -> None:
    start, dial = both
    server = start()
    path = server.folder / "file"
    path.write_bytes(CONTENT)
    expected = b"".join(piece if isinstance(piece, bytes) else CONTENT[slice(*piece)] for piece in pieces)
    serve(server, lambda exchange: Answer(200, (), FileBody(os.open(path, os.O_RDONLY), pieces)))
    before = open_files()
    with dial(server) as peer:
        for _ in range(2):
            assert peer.get("/").body == expected
        assert peer.ask("HEAD", "/").fields["content-length"] == str(len(expected))
    assert [line["bytes"] for line in accesses(server)] == [str(len(expected))] * 2 + ["0"]
    until(lambda: open_files() <= before, "no descriptor is left open")


# ---- Faults of ours and of the storage: what the client is told, and what the operator

PRIVATE_TEXT = "/srv/private/path: a text that only the log may show"


def fails_with(error: Exception) -> Callable[[Exchange], Answer]:
    def respond(_: Exchange) -> Answer:
        raise error

    return respond


def test_a_fault_in_a_handler_is_500_and_its_trace_is_in_the_log_alone(server: Running) -> None:
    serve(server, fails_with(ZeroDivisionError(PRIVATE_TEXT)))
    with server.peer() as peer:
        reply = peer.get("/a")
        assert (reply.status, reply.text) == (500, "Internal Server Error")
        assert PRIVATE_TEXT not in str(reply)
        assert peer.get("/b").status == 500, "the connection goes on"
    error = values(server.wait_for_log("event=error"))
    assert error["target"] == "/a"
    assert PRIVATE_TEXT in error["trace"]
    assert error["trace"].count("\n") > 3
    assert [(line["status"], line["reason"]) for line in accesses(server)] == [("500", "internal-error")] * 2


@pytest.mark.parametrize(
    ("number", "status", "reason"),
    [
        (errno.ENOSPC, 507, "no-space"),
        (errno.EDQUOT, 507, "no-space"),
        (errno.EMFILE, 503, "overloaded"),
        (errno.EIO, 503, "storage-failed"),
        (errno.EACCES, 503, "storage-failed"),
        (errno.EROFS, 503, "storage-failed"),
        (errno.EISDIR, 409, "key-conflict"),
        (errno.ENOTDIR, 409, "key-conflict"),
        (errno.ENAMETOOLONG, 400, "key-too-long-here"),
    ],
)
def test_a_fault_of_the_storage_names_no_path(server: Running, number: int, status: int, reason: str) -> None:
    """UP-10: one line; the log has the rest where an operator has to act."""
    serve(server, fails_with(OSError(number, os.strerror(number), "/srv/private/path")))
    with server.peer() as peer:
        reply = peer.get("/")
        assert reply.status == status
        assert "private" not in reply.text
        assert len(reply.text.splitlines()) == 1
    assert accesses(server)[0]["reason"] == reason
    assert ("/srv/private/path" in "".join(server.log())) == (status >= 500)


def breaks_after(*blocks: bytes) -> Generator[bytes, None, None]:
    yield from blocks
    raise OSError(errno.EIO, PRIVATE_TEXT)


def test_a_stream_with_a_fault_in_its_first_block_is_a_refusal(server: Running) -> None:
    serve(server, lambda exchange: Answer(200, (), StreamBody(breaks_after())))
    with server.peer() as peer:
        for _ in range(2):
            reply = peer.get("/")
            assert (reply.status, reply.text) == (503, "Storage is unavailable")
    assert [line["reason"] for line in accesses(server)] == ["storage-failed"] * 2


@pytest.mark.parametrize(("length", "sent"), [(None, b"5\r\nfirst\r\n6\r\nsecond\r\n"), (1_000, b"firstsecond")])
def test_a_stream_with_a_later_fault_never_looks_whole(server: Running, length: Optional[int], sent: bytes) -> None:
    """No last chunk, fewer bytes than announced; and nothing of the error behind them."""
    serve(server, lambda exchange: Answer(200, (), StreamBody(breaks_after(b"first", b"second"), length)))
    with server.peer() as peer:
        _, _, body = peer.send(raw("GET / HTTP/1.1") + SMUGGLED).rest().partition(b"\r\n\r\n")
    assert body == sent
    assert [(line["status"], line["reason"], line["bytes"]) for line in accesses(server)] == [
        ("200", "answer-broken", "11")
    ]
    assert PRIVATE_TEXT in values(server.wait_for_log("event=error"))["trace"]


def test_a_stream_that_ends_with_the_connection_is_reset_by_a_fault_and_never_looks_whole(server: Running) -> None:
    """HTTP/1.0 has no last chunk: half of a list would be taken for all of it."""
    serve(server, lambda exchange: Answer(200, (), StreamBody(breaks_after(b"first", b"second"))))
    with server.peer() as peer, pytest.raises(ConnectionResetError):
        peer.send(raw("GET / HTTP/1.0")).rest()
    assert [line["reason"] for line in accesses(server)] == ["answer-broken"]


def test_a_stream_that_ends_with_the_connection_lacks_close_notify_after_a_fault(start: Start, tls: Secure) -> None:
    server = start(tls=tls.server)
    serve(server, lambda exchange: Answer(200, (), StreamBody(breaks_after(b"first", b"second"))))
    with server.peer() as peer:
        peer.socket = tls.client.wrap_socket(peer.socket, server_hostname="localhost", suppress_ragged_eofs=False)
        with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
            peer.send(raw("GET / HTTP/1.0")).rest()
    assert [line["reason"] for line in accesses(server)] == ["answer-broken"]


@pytest.mark.parametrize("length", [3, 5])
def test_a_stream_of_another_length_than_announced_is_a_fault_and_ends_the_connection(
    server: Running, length: int
) -> None:
    serve(server, lambda exchange: stream(b"ab", b"cd", length=length))
    with server.peer() as peer:
        head, _, body = peer.send(raw("GET / HTTP/1.1") + SMUGGLED).rest().partition(b"\r\n\r\n")
    assert f"Content-Length: {length}".encode() in head
    assert body == b"abcd"[: max(length, 4)]
    assert [line["reason"] for line in accesses(server)] == ["answer-broken"]


def answer_file(server: Running, size: int, announced: int) -> None:
    """Has a file answer that has become shorter, as when somebody writes into the storage by hand."""
    path = server.folder / "short"
    path.write_bytes(bytes(size))
    serve(server, lambda exchange: Answer(200, (), FileBody(os.open(path, os.O_RDONLY), [(0, announced)])))


def test_a_small_file_that_became_shorter_is_a_fault_and_a_refusal(both: tuple[Start, Dial]) -> None:
    """It is read before the head is sent: so the client can be told."""
    start, dial = both
    server = start()
    answer_file(server, 99, 100)
    with dial(server) as peer:
        for _ in range(2):
            assert peer.get("/").status == 503
    assert [(line["status"], line["reason"]) for line in accesses(server)] == [("503", "storage-failed")] * 2
    assert "became shorter" in values(server.wait_for_log("event=error"))["trace"]


def test_a_large_file_that_became_shorter_is_a_fault_and_never_looks_whole(both: tuple[Start, Dial]) -> None:
    start, dial = both
    server = start()
    answer_file(server, 999_999, 1_000_000)
    with dial(server) as peer:
        _, _, body = peer.send(raw("GET / HTTP/1.1") + SMUGGLED).rest().partition(b"\r\n\r\n")
    assert len(body) == 999_999
    assert [line["reason"] for line in accesses(server)] == ["answer-broken"], "the client was there until the end"
    assert "became shorter" in values(server.wait_for_log("event=error"))["trace"]


def test_a_fault_of_the_disk_during_a_download_is_not_the_clients(
    both: tuple[Start, Dial], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    start, dial = both
    server = start()
    answer_file(server, 1_000_000, 1_000_000)
    monkeypatch.setattr(os, "sendfile", broken)
    monkeypatch.setattr(os, "pread", broken)
    with dial(server) as peer:
        assert peer.send(raw("GET / HTTP/1.1")).rest().endswith(b"\r\n\r\n"), "the head and nothing behind it"
    assert [line["reason"] for line in accesses(server)] == ["answer-broken"]
    assert "Input/output error" in values(server.wait_for_log("event=error"))["trace"]


@pytest.mark.parametrize("text", ["a\r\nSet-Cookie: x=1", "a\nb", "a\rb", "a\r\n\r\n<html>"])
def test_a_line_break_in_an_answers_field_is_a_fault_and_not_a_field(server: Running, text: str) -> None:
    """Response splitting: the answer is given up, the client told so."""
    serve(server, lambda exchange: Answer(200, [("X", text), ("Y", "z")]))
    with server.peer() as peer:
        reply = peer.get("/")
        assert reply.status == 500
        assert not {"set-cookie", "x"} & set(reply.fields)
    assert accesses(server)[0]["status"] == "500"


def test_a_fault_outside_of_any_request_ends_just_that_connection(server: Running) -> None:
    def broken(*_: object) -> NoReturn:
        raise ZeroDivisionError(PRIVATE_TEXT)

    good, server.server.identify = server.server.identify, broken
    with server.peer() as peer:
        assert peer.send(raw("GET / HTTP/1.1")).rest() == b""
    assert PRIVATE_TEXT in values(server.wait_for_log("event=error"))["trace"]
    server.server.identify = good
    with server.peer() as peer:
        assert peer.get("/").status == 200


def test_a_bug_that_a_target_could_trigger_tells_nothing_of_it(server: Running) -> None:
    """No header injection through what a client names: the key comes back in a body, never in a field."""
    with server.peer() as peer:
        for target in ("/a%0d%0aSet-Cookie:%20x=1", "/a%0aLocation:%20b", "/%00", "/a%22%0d%0a%0d%0a<html>"):
            reply = peer.get(target)
            assert reply.status == 404
            assert not {"set-cookie", "location"} & set(reply.fields)
            assert len(reply.text.splitlines()) == 1


# ---- The log (LG-1)

REFUSED = {
    "400": (post("/upload", b"nonsense", FORM_TYPE, GOOD_TOKEN), "400", "form-malformed"),
    "401": (post("/upload", b"body"), "401", "token-missing"),
    "403": (raw("GET / HTTP/1.1", BANNED), "403", "useragent-ban"),
    "404": (raw("GET /missing?a=b HTTP/1.1"), "404", "not-found"),
    "405": (raw("DELETE /missing HTTP/1.1"), "405", "method-not-allowed"),
    "412": (raw("GET /there.txt HTTP/1.1", 'If-Match: "other"'), "412", "precondition-failed"),
    "413": (large(FORM_TYPE, GOOD_TOKEN), "413", "body-too-large"),
    "416": (raw("GET /there.txt HTTP/1.1", "Range: bytes=100-"), "416", "range-unsatisfiable"),
    "417": (raw("GET / HTTP/1.1", "Expect: tea"), "417", "expectation-unknown"),
    "501": (raw("BREW /pot HTTP/1.1"), "501", "method-unknown"),
}


@pytest.mark.parametrize(("data", "status", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_every_refusal_is_logged_as_the_client_saw_it(start: Start, data: bytes, status: str, reason: str) -> None:
    server = start(limits=LimitOptions(upload_bytes=1_000))
    (server.storage / "there.txt").write_text("content")
    with server.peer() as peer:
        reply = peer.send(data).reply()
    method, target, _ = data.split(b"\r\n")[0].decode().split(" ")
    line = accesses(server)[0]
    told = {"ip": "127.0.0.1", "status": status, "bytes": str(len(reply.body)), "method": method, "target": target}
    assert {name: line[name] for name in told} == told
    assert (line["reason"], str(reply.status)) == (reason, status)


def test_who_is_refused_for_a_head_is_named_as_well_as_others(server: Running) -> None:
    """LG-1: the address behind the proxy and the User-Agent, as soon as they could be read."""
    with server.peer() as peer:
        fields = ["Content-Length: nonsense", "User-Agent: broken/1.0", "X-Forwarded-For: 203.0.113.7"]
        assert peer.send(raw("POST /upload HTTP/1.1", *fields)).reply().status == 400
    line = accesses(server)[0]
    assert (line["ip"], line["ua"]) == ("203.0.113.7", "broken/1.0")


HOSTILE = [
    'a" event=access ip="10.0.0.1" status=200',
    "a\\",
    '\\"',
    "a\tb",
    "\x85\x9b31m",
    "é\xff",
    "%0aevent=access",
    "\\u0022",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_client_cannot_write_log_lines_of_its_own(server: Running, text: str) -> None:
    """Every text comes back from its line to the letter; and lines are printable ASCII, as `start` checks."""
    target = "/" + text.replace(" ", "+").replace("\t", "+")
    with server.peer() as peer:
        peer.send(raw(f"GET {target} HTTP/1.1", f"User-Agent: {text}")).reply()
    line = accesses(server)[-1]
    assert (line["target"], line["ua"]) == (target, text)
    assert line["ip"] == "127.0.0.1"


def test_a_token_in_the_wrong_place_is_not_logged(server: Running) -> None:
    """LG-1: no secret is ever logged. Some tools put the token into the query, or into the User-Agent."""
    secret = token()
    targets = [f"/?token={secret}", f"/{secret}", f"/?t={secret.replace('.', '%2E')}", f"/?a=b&jwt={secret}&c=d"]
    with server.peer() as peer:
        for target in targets:
            peer.get(target, f"User-Agent: tool {secret} 1.0", f"Authorization: Bearer {secret}")
        assert peer.upload(secret, "a", "b.txt", b"content").status == 200
        assert peer.upload(secret[:-3] + "AAA", "a", "b.txt", b"content").status == 401
    assert len(accesses(server)) == len(targets) + 2
    log = "\n".join(server.log())
    assert not any(piece in log for piece in (*secret.split("."), SECRET))
    assert log.count("[token]") >= len(targets)


# ---- Ending in good order (CF-3)


class Stop:
    """Stops a server in a thread of its own."""

    def __init__(self, server: Running, seconds: float = 10.0) -> None:
        self._answers: list[bool] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(server.server.stop(seconds)))
        self._thread.start()
        until(lambda: server.server.socket.fileno() < 0, "no longer listening")

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def in_time(self) -> bool:
        """Waits for the end; says whether all requests ended by themselves."""
        self._thread.join(15)
        assert self.done
        return self._answers[0]


def test_idle_connections_end_at_once(both: tuple[Start, Dial]) -> None:
    start, dial = both
    server = start()
    with dial(server) as used, dial(server) as unused, server.peer() as half:
        assert used.get("/").status == 200
        half.send(b"GET")
        until(lambda: server.server.connections == 3, "all are in")
        began = time.monotonic()
        stop = Stop(server)
        assert used.rest() == unused.rest() == b""
        half.socket.close()
        used.socket.close()
        unused.socket.close()
        assert stop.in_time()
        assert time.monotonic() - began < 5


def refused(server: Running) -> bool:
    try:
        server.peer().socket.close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_running_upload_ends_well_and_nobody_new_comes_in(both: tuple[Start, Dial]) -> None:
    start, dial = both
    server = start()
    body = form(("path", None, "a"), ("file0", "b.txt", "content"))
    with dial(server) as peer:
        peer.send(upload_head(len(body), GOOD_TOKEN, EXPECT))
        assert peer.reply().status == 100
        peer.send(body[:50])
        stop = Stop(server)
        until(lambda: refused(server), "no new connection")  # the call that closes the socket may not have returned
        assert not stop.done
        reply = peer.send(body[50:] + SMUGGLED).reply()
        assert (reply.status, reply.fields["connection"]) == (200, "close")
        assert peer.rest() == b""
    assert stop.in_time()
    assert (server.storage / "a" / "b.txt").read_text() == "content"


def test_a_running_download_ends_well(both: tuple[Start, Dial]) -> None:
    start, dial = both
    server = start()
    sparse(server, "a.bin", 64 << 20)
    with dial(server) as peer:
        peer.send(raw("GET /a.bin HTTP/1.1") + SMUGGLED)
        peer.take(1_000)
        stop = Stop(server)
        assert not stop.done
        blocks = iter(lambda: peer.socket.recv(1 << 20), b"")
        assert sum(len(block) for block in blocks) + len(peer.buffer) + 1_000 > 64 << 20
    assert stop.in_time()
    assert [line["bytes"] for line in accesses(server)] == [str(64 << 20)]


def test_a_request_that_does_not_end_is_waited_for_just_so_long(server: Running) -> None:
    with server.peer() as peer:
        peer.send(upload_head(1_000, GOOD_TOKEN, EXPECT))
        assert peer.reply().status == 100
        assert not Stop(server, 0.2).in_time()


class Process:
    """`python kcistorage.py` in a folder of its own, run by a shell command that has it as $@."""

    def __init__(self, folder: Path, shell: str = 'exec "$@"') -> None:
        config = folder / "config.toml"
        config.write_text(f'driver = "local"\njwt_secret = "{SECRET}"\n[local]\nstorage_path = "{folder}/storage"\n')
        self.environment = {**os.environ, "KCI_STORAGE_PORT": "0", "KCI_STORAGE_HOST": "127.0.0.1"}
        command = ["sh", "-c", shell, "sh", sys.executable, str(Path(kcistorage.__file__).resolve())]
        self.process = subprocess.Popen(
            command, cwd=folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(values(self.process.stdout.readline())["url"].rpartition(":")[2])

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def peer(self) -> Peer:
        return Peer(("127.0.0.1", self.port))

    def processor_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def end(self, number: signal.Signals) -> tuple[int, list[str]]:
        """Sends a signal; exit status and what was logged since the start, with nothing on stderr."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, list[str]]:
        log, errors = self.process.communicate(timeout=15)
        assert errors == ""
        return self.process.returncode, log.splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_0_after_the_running_upload(tmp_path: Path, number: signal.Signals) -> None:
    body = form(("path", None, "a"), ("file0", "b.txt", "content"))
    with Process(tmp_path) as running, running.peer() as peer, running.peer() as idle:
        assert idle.get("/").status == 200
        peer.send(upload_head(len(body), GOOD_TOKEN, EXPECT))
        assert peer.reply().status == 100
        running.process.send_signal(number)
        assert idle.rest() == b""
        idle.socket.close()
        assert peer.send(body).reply().status == 200
        peer.socket.close()
        status, log = running.ended()
    assert status == 0
    assert [line for line in log if "event=stop" in line]
    assert (tmp_path / "storage" / "a" / "b.txt").read_text() == "content"


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    with Process(tmp_path) as running, running.peer() as idle, running.peer() as peer:
        peer.send(upload_head(1_000, GOOD_TOKEN, EXPECT))
        assert peer.reply().status == 100
        running.process.send_signal(signal.SIGTERM)
        assert idle.rest() == b""
        status, _ = running.end(signal.SIGTERM)
    assert status == -signal.SIGTERM
    assert list((tmp_path / "storage").glob("[!.]*")) == []


# ---- Out of descriptors


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS], ids=["descriptors", "buffers"])
def test_accepting_goes_on_after_the_descriptors_ran_out(
    server: Running, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Connections still wait to be accepted: without pauses the accepting threads would spin."""
    accept, failing, tries = socketserver.TCPServer.get_request, threading.Event(), []

    def get_request(self: socketserver.TCPServer) -> object:
        tries.append(time.monotonic())
        if failing.is_set():
            raise OSError(number, os.strerror(number))
        return accept(self)

    monkeypatch.setattr(socketserver.TCPServer, "get_request", get_request)
    failing.set()
    with server.peer() as peer:
        peer.send(raw("GET / HTTP/1.1"))
        until(lambda: len(tries) >= MOST_AT_DOOR + 3, "some tries")
        assert tries[MOST_AT_DOOR + 2] - tries[0] > 0.2, "each thread has a first one; then they take turns"
        failing.clear()
        assert peer.reply().status == 200
    assert values(server.wait_for_log("event=accept-failed"))["error"] == os.strerror(number)


def test_a_connection_that_is_gone_before_it_is_accepted_is_nothing(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, gone = socketserver.TCPServer.get_request, threading.Event()

    def get_request(self: socketserver.TCPServer) -> object:
        if not gone.is_set():
            gone.set()
            raise ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
        return accept(self)

    monkeypatch.setattr(socketserver.TCPServer, "get_request", get_request)
    with server.peer() as peer:
        assert peer.get("/").status == 200
    until(gone.is_set, "a call that fails")


def test_a_process_that_runs_out_of_descriptors_rests_and_recovers(tmp_path: Path) -> None:
    with Process(tmp_path, 'ulimit -n 40; exec "$@"') as running:
        with contextlib.ExitStack() as crowd:
            peers = [crowd.enter_context(running.peer()) for _ in range(60)]
            assert peers[0].get("/").status == 200
            before = running.processor_seconds()
            assert not select.select([peer.socket for peer in peers], [], [], 0.5)[0]
            assert running.processor_seconds() - before < 0.3
        with running.peer() as peer:
            assert peer.get("/").status == 200
        status, log = running.end(signal.SIGTERM)
    assert status == 0
    assert any("event=accept-failed" in line for line in log)
    assert not any("event=error" in line for line in log)


def test_no_thread_to_be_had_is_a_fault_of_that_connection_alone(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with server.peer() as peer:
        assert peer.get("/").status == 200  # all threads of the server's own are running
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with server.peer() as peer, contextlib.suppress(ConnectionResetError):
            assert peer.send(raw("GET /v1/list HTTP/1.1")).rest() == b""
    assert "new thread" in values(server.wait_for_log("event=error"))["trace"]
    with server.peer() as peer:
        assert peer.get("/").status == 200


# ---- IPv6


def test_the_server_listens_on_ipv6_and_ipv4_at_once(server: Running) -> None:
    log, metrics = server.server.log, server.server.metrics
    try:
        dual = StorageServer(("::", 0), server.server.site, log, metrics)
    except OSError:
        pytest.skip("this machine has no IPv6")
    thread = threading.Thread(target=dual.serve_forever, args=(0.02,))
    thread.start()
    try:
        for host in ("::1", "127.0.0.1"):
            with Peer((host, dual.server_port)) as peer:
                assert peer.get("/").status == 200
    finally:
        assert dual.stop(10)
        thread.join(10)
    assert 'ip="::1"' in server.wait_for_log("::1")


# ---- Good requests, spoilt

OBJECT = "a/b.txt"
GOOD_REQUESTS = [
    raw(f"GET /{OBJECT} HTTP/1.1"),
    raw(f"GET /{OBJECT} HTTP/1.1", "Range: bytes=0-1,3-4", 'If-None-Match: "a", W/"b"'),
    raw(f"GET /{OBJECT} HTTP/1.0", "Connection: keep-alive"),
    raw("GET /v1/list?prefix=a%2Fb HTTP/1.1", "X-Forwarded-For: 192.0.2.1, 10.0.0.1", "User-Agent: curl/8.0"),
    raw("GET /v1/checkauth HTTP/1.1", GOOD_TOKEN),
    raw("GET http://test/metrics HTTP/1.1", "Connection: close"),
    raw("GET /sp%20ace%2522q%25b-%C3%BC%E2%82%AC;x=1.txt HTTP/1.1"),
    post("/upload", form(("path", None, "c"), ("file0", "d.txt", "content")), FORM_TYPE, GOOD_TOKEN),
    post("/v1/file", form(("file0", "d.txt", "content"), ("path", "path", "c")), FORM_TYPE, GOOD_TOKEN),
    post_chunked(
        "/upload",
        chunked([form(("path", None, "c"), ("file0", "e.txt", "content"))[:70], b"x" * 5]),
        FORM_TYPE,
        GOOD_TOKEN,
    ),
    post("/upload", SMUGGLED),
]
SPOILS = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\r\n\r\n", b"\r\n ", b"%", b"%00", b"%2e%2e/"]),
    st.sampled_from(
        [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"0\r\n\r\n"]
    ),
    st.sampled_from(
        [b"Range: bytes=1-\r\n", b"Expect: tea\r\n", b"If-Match: *\r\n", b"HTTP/1.0", b"99999999999", b"-1"]
    ),
)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A few good requests in a row; then bytes are put in, taken out or repeated here and there."""
    data = b"".join(draw(st.lists(st.sampled_from(GOOD_REQUESTS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        at, size = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        put = draw(st.one_of(SPOILS, st.just(data[at : at + 40])))
        data = data[:at] + put + data[at + size :]
    return data


def statuses(server: Running, data: bytes, cuts: Sequence[int]) -> list[int]:
    """What a client sees that sends all, ends, and then reads to the end; it fails when that takes over 5 seconds."""
    with server.peer(5) as peer:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)]):
                peer.send(data[begin:end])
            peer.socket.shutdown(socket.SHUT_WR)
        answers = peer.rest()
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", answers) if status != b"100"]


@settings(SOCKETS, max_examples=150)
@given(data=spoilt(), cuts=CUTS)
def test_spoilt_requests_never_break_or_hang_the_server(server: Running, data: bytes, cuts: list[int]) -> None:
    """Invariant: no 5xx but 501, no traceback in the log, an end within seconds; and the cuts change no answer."""
    whole = statuses(server, data, [])
    assert not [status for status in whole if status >= 500 and status != 501]
    assert statuses(server, data, cuts) == whole
    with server.peer() as peer:
        assert peer.get("/").status == 200
