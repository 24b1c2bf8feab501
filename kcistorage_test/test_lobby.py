"""The lobby: where connections rest together, and small requests are answered without a thread.

Whether a request was answered there or in a thread of its connection must show in nothing but time: most tests hold the
one against the other. White-box is only how they know which of the two it was, and that a connection is at rest.
Every test ends with a look at what is left: no connection, and no fault in the log unless its name speaks of one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kcistorage
from kcistorage import Answer, Connection, Exchange, Job, LimitOptions, Site
from kcistorage_parts import local, logfmt
from kcistorage_parts.logfmt import Log
from kcistorage_test import conftest
from kcistorage_test.conftest import Running, Start, token
from kcistorage_test.talk import FORM_TYPE, Peer, form
from kcistorage_test.test_handlers import HalfUpload, until, values

SOCKETS = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
IMPATIENT = 0.4  # seconds
SMALL = b"0123456789" * 409  # bytes; is kept in memory
LARGE = b"0123456789abcdef" * 20_000  # is not, and does not leave in one write
BANNED = "User-Agent: Mozilla/5.0 (compatible; AhrefsBot/7.0)"
GOOD_TOKEN = f"Authorization: Bearer {token()}"


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small object need not be a second old to be kept in memory."""
    monkeypatch.setattr(local, "SETTLED_NS", 0)


def resting(server: Running) -> int:
    lobby = server.server.lobby
    return len(lobby._resting) if lobby is not None else 0


def everybody_rests(server: Running, count: int) -> None:
    until(lambda: server.server.connections == resting(server) == count)


def everybody_is_gone(server: Running) -> None:
    until(lambda: server.server.connections == 0)
    assert resting(server) == 0


def accesses(server: Running) -> list[dict[str, str]]:
    """All requests that were answered, once their connections have ended."""
    everybody_is_gone(server)
    return [values(line) for line in server.log() if "event=access" in line]


@pytest.fixture
def start(start: Start, request: pytest.FixtureRequest) -> Iterator[Start]:
    """As in conftest; and in the end everybody is gone."""
    running: list[Running] = []

    def start_one(**changes: object) -> Running:
        server = start(**changes)
        running.append(server)
        with server.peer():  # so that all its threads are running
            until(lambda: server.server.connections == 1)
        everybody_is_gone(server)
        return server

    yield start_one
    for server in running:
        everybody_is_gone(server)
        if "fault" not in request.node.name:
            assert [line for line in server.log() if "event=error" in line] == []


class HandOffs:
    """Counts the connections that are given threads, or stay with the one that let them in; can hold up the former."""

    def __init__(self, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._go = threading.Event()
        self._go.set()
        delegate, place = server.server._delegate, server.server._place

        def delegate_one(job: Job, connection: Connection) -> bool:
            self.count += job != server.server._watch
            assert self._go.wait(10)
            return delegate(job, connection)

        def place_one(sock: socket.socket, address: Any) -> Optional[Connection]:
            connection = place(sock, address)
            self.count += connection is not None
            return connection

        monkeypatch.setattr(server.server, "_delegate", delegate_one)
        monkeypatch.setattr(server.server, "_place", place_one)

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        self._go.clear()
        try:
            yield
        finally:
            self._go.set()


@pytest.fixture(autouse=True)
def _threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection has a thread of its own, which ends with it."""
    monkeypatch.setattr(kcistorage, "MOST_IDLE_THREADS", 0)


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def raw(line: str, *fields: str, body: bytes = b"") -> bytes:
    """A request to the letter, with a Host."""
    return "\r\n".join([line, "Host: test", *fields]).encode("latin-1") + b"\r\n\r\n" + body


def get(target: str, *fields: str) -> bytes:
    return raw(f"GET {target} HTTP/1.1", *fields)


def head(target: str, *fields: str) -> bytes:
    return raw(f"HEAD {target} HTTP/1.1", *fields)


def upload(path: str, filename: str, content: bytes) -> bytes:
    body = form(("path", None, path), ("file0", filename, content))
    return raw("POST /upload HTTP/1.1", GOOD_TOKEN, FORM_TYPE, f"Content-Length: {len(body)}", body=body)


def keep(server: Running, key: str, content: bytes = SMALL) -> None:
    """Makes an object; once it was asked for, and if it is small, it is in memory."""
    folder, _, name = key.rpartition("/")
    with server.peer() as peer:
        assert peer.upload(token(), folder, name, content).status == 200
        assert peer.get(f"/{key}").body == content
    everybody_is_gone(server)


def vanish(peer: Peer) -> None:
    """Leaves with a reset, as a machine does that lost its power and came back."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()


def exactly(server: Running, data: bytes) -> bytes:
    """All that comes back when these bytes are sent and the client ends its half, but for what the clock says."""
    with server.peer() as peer:
        peer.send(data)
        peer.socket.shutdown(socket.SHUT_WR)
        return re.sub(rb"\r\nDate: [^\r]*", b"", peer.rest())


class Quick:
    """Answers with what a function returns or raises: in the lobby."""

    def __init__(self, function: Callable[[Exchange], Answer]) -> None:
        self._function = function

    def respond(self, exchange: Exchange) -> Answer:
        return self._function(exchange)

    at_once = respond


def serve(server: Running, function: Callable[[Exchange], Answer], *gates: kcistorage.Gate) -> None:
    """Has a function answer to /quick; everything else stays as it was."""
    site = server.server.site
    routes = {**site._routes, "/quick": {"GET": Quick(function)}}
    server.server.site = Site([*site._gates, *gates], routes, site._otherwise)


# ---- Who is answered in the lobby, and who in a thread

QUICK = {
    "banner": (get("/"), 200),
    "its head": (head("/"), 200),
    "robots": (get("/robots.txt"), 200),
    "icon": (get("/favicon.ico"), 301),
    "object": (get("/a/x"), 200),
    "object, after an empty line": (b"\r\n" + get("/a/x"), 200),
    "object with a query": (get("/a/x?b=c"), 200),
    "object, slashes": (get("//a//x"), 200),
    "object, absolute form": (get("http://test/a/x"), 200),
    "object, HTTP/1.0": (raw("GET /a/x HTTP/1.0", "Connection: keep-alive"), 200),
    "object, a body of no bytes": (get("/a/x", "Content-Length: 0"), 200),
    "object, nothing to wait with": (get("/a/x", "Expect: 100-continue"), 200),
    "head of an object": (head("/a/x"), 200),
    "range": (get("/a/x", "Range: bytes=1-5"), 206),
    "ranges": (get("/a/x", "Range: bytes=0-0,9-9"), 206),
    "no such range": (get("/a/x", f"Range: bytes={len(SMALL)}-"), 416),
    "not modified": (get("/a/x", "If-None-Match: *"), 304),
    "precondition": (get("/a/x", 'If-Match: "x"'), 412),
    "banned": (get("/a/x", BANNED), 403),
}


@pytest.mark.parametrize(("data", "status"), QUICK.values(), ids=QUICK.keys())
def test_what_takes_no_waiting_takes_no_thread(
    server: Running, monkeypatch: pytest.MonkeyPatch, data: bytes, status: int
) -> None:
    keep(server, "a/x")
    hand_offs, before = HandOffs(server, monkeypatch), threads()
    with server.peer() as peer:
        for _ in range(3):
            reply = peer.send(data).reply(head_only=data.startswith(b"HEAD"))
            assert reply.status == status
            assert reply.fields.get("connection", "keep-alive") == "keep-alive"
            assert threads() <= before
        everybody_rests(server, 1)
    assert hand_offs.count == 0


HEAVY = {
    "upload": (upload("b", "y", SMALL), 200),
    "object that was not read yet": (get("/b/unread"), 200),
    "object that is not small": (get("/b/large"), 200),
    "head of one": (head("/b/large"), 200),
    "nothing": (get("/nothing"), 404),
    "private": (get("/.metadata/x"), 404),
    "list": (get("/v1/list"), 200),
    "metrics": (get("/metrics"), 200),
    "whose token": (get("/v1/checkauth", GOOD_TOKEN), 200),
    "wrong method": (raw("POST / HTTP/1.1"), 405),
    "unknown method": (raw("BREW / HTTP/1.1"), 501),
    "body": (raw("GET /a/x HTTP/1.1", "Content-Length: 1", body=b"1"), 200),
}


def furnish(server: Running) -> None:
    """What QUICK and HEAVY ask for."""
    keep(server, "a/x")
    (server.storage / "b").mkdir()
    (server.storage / "b" / "unread").write_bytes(SMALL)
    (server.storage / "b" / "large").write_bytes(LARGE)


@pytest.mark.parametrize(("data", "status"), HEAVY.values(), ids=HEAVY.keys())
def test_what_may_wait_gets_a_thread_and_after_a_small_request_the_connection_rests_again(
    server: Running, monkeypatch: pytest.MonkeyPatch, data: bytes, status: int
) -> None:
    """DL-8"""
    furnish(server)
    hand_offs, before = HandOffs(server, monkeypatch), threads()
    with server.peer() as peer:
        assert peer.send(data).reply(head_only=data.startswith(b"HEAD")).status == status
        assert hand_offs.count == 1
        for _ in range(3):
            assert peer.get("/a/x").body == SMALL
        everybody_rests(server, 1)
        until(lambda: threads() <= before)
        assert peer.send(data).reply(head_only=data.startswith(b"HEAD")).status == status
        assert peer.get("/").status == 200


def test_a_head_in_two_pieces_is_waited_for_in_a_thread_and_the_connection_rests_again(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(server, "a/x")
    hand_offs, before = HandOffs(server, monkeypatch), threads()
    request = get("/a/x")
    with server.peer() as peer:
        for count, cut in enumerate((1, 10, len(request) - 1), 1):
            peer.send(request[:cut])
            until(lambda: hand_offs.count == count)  # noqa: B023  # called at once
            assert peer.send(request[cut:]).reply().body == SMALL
            everybody_rests(server, 1)
            until(lambda: threads() <= before)


@pytest.mark.parametrize(("target", "status"), [("/nothing", 404), ("/v1/checkauth", 401)])
def test_requests_that_the_lobby_cannot_answer_do_not_each_start_a_thread(
    server: Running, monkeypatch: pytest.MonkeyPatch, target: str, status: int
) -> None:
    """Measured: a new thread for each makes them seven times slower. Their connection keeps the one it has."""
    hand_offs = HandOffs(server, monkeypatch)
    with server.peer() as peer:
        for _ in range(20):
            assert peer.get(target).status == status
    assert hand_offs.count == 1


def test_objects_that_are_read_for_the_first_time_do_not_each_start_a_thread(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More small objects than memory holds are the same: each is read from disk, over and over."""
    for number in range(20):
        (server.storage / str(number)).write_bytes(SMALL)
    hand_offs = HandOffs(server, monkeypatch)
    with server.peer() as peer:
        for number in range(20):
            assert peer.get(f"/{number}").body == SMALL
    assert hand_offs.count == 1


def test_idle_connections_take_no_threads(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """DL-8: new ones and used ones."""
    hand_offs, before = HandOffs(server, monkeypatch), threads()
    with contextlib.ExitStack() as crowd:
        peers = [crowd.enter_context(server.peer()) for _ in range(100)]
        everybody_rests(server, 100)
        assert [peer.get("/").status for peer in peers[::2]] == [200] * 50
        everybody_rests(server, 100)
        assert threads() <= before
        assert [peer.get("/").status for peer in peers] == [200] * 100
    assert hand_offs.count == 0


def test_a_crowd_that_asks_at_once_is_answered_in_rounds(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """More connections than a round attends to have sent something before it begins; none is passed over."""
    asked = threading.Event()

    def wait_for_all(exchange: Exchange) -> Answer:
        assert asked.wait(10)
        return Answer(200)

    serve(server, wait_for_all)
    hand_offs = HandOffs(server, monkeypatch)
    with contextlib.ExitStack() as crowd:
        peers = [crowd.enter_context(server.peer()) for _ in range(3 * kcistorage.ROUND + 1)]
        for peer in peers:
            peer.send(get("/quick") if peer is peers[0] else get("/"))
        asked.set()
        assert [peer.reply().status for peer in peers] == [200] * len(peers)
    assert hand_offs.count == 0


# ---- The same answers as from a thread

FIELDS = [
    (),
    ("Range: bytes=0-3",),
    ("Range: bytes=2-",),
    ("Range: bytes=-3",),
    ("Range: bytes=-99999",),
    ("Range: bytes=0-1,4-5",),
    ("Range: bytes=0-1,1-2",),
    ("Range: bytes=99999-",),
    ("Range: bytes=5-1",),
    ("Range: lines=1-2",),
    ("If-None-Match: *",),
    ('If-None-Match: W/"x", ETAG',),
    ("If-Match: ETAG", "Range: bytes=1-1"),
    ('If-Match: "x"',),
    ("If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT",),
    ("If-Modified-Since: Fri, 01 Jan 2016 00:00:00 GMT",),
    ("If-Unmodified-Since: Fri, 01 Jan 2016 00:00:00 GMT",),
    ("If-Range: ETAG", "Range: bytes=1-2"),
    ('If-Range: "x"', "Range: bytes=1-2"),
    ("Connection: close",),
    (BANNED,),
    ("Content-Length: x",),
]

Counts = dict[str, float]


def counts(server: Running) -> Counts:
    """What requests add to, time apart (MT-1)."""
    counted = re.compile(r"(kcistorage_(?:requests|errors|cache|(?:sent|received)_bytes)_total\S*) (\S+)")
    lines = map(counted.fullmatch, server.server.metrics.text().decode().splitlines())
    return {line[1]: float(line[2]) for line in lines if line}


def told_by(server: Running, requests: Sequence[bytes]) -> tuple[list[bytes], list[dict[str, str]], Counts]:
    """What these requests, one after the other, are answered, and what they leave in log and metrics."""
    lines, before = len(accesses(server)), counts(server)
    answers = [exactly(server, request) for request in requests]
    logged = [{**line, "ts": "", "seconds": ""} for line in accesses(server)[lines:]]
    added = {name: count - before.get(name, 0) for name, count in counts(server).items()}
    return answers, logged, {name: count for name, count in added.items() if count}


@pytest.mark.parametrize("content", [SMALL, b""], ids=["4 KiB", "empty"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_from_memory_comes_byte_by_byte_what_comes_from_disk(
    server: Running, monkeypatch: pytest.MonkeyPatch, method: str, version: str, content: bytes
) -> None:
    """DL-2 to DL-5, LG-1, MT-1: answers, log lines and metrics of lobby and thread are the same but for the clock."""
    with server.peer() as peer:
        etag = peer.upload(token(), "a", "x", content).fields["etag"]
    told = [[field.replace("ETAG", etag) for field in fields] for fields in FIELDS]
    requests = [raw(f"{method} /a/x HTTP/{version}", *fields) for fields in told]
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 2 * size)  # the boundary between ranges
    with monkeypatch.context() as patched:
        patched.setattr(local, "SMALL_OBJECT", -1)
        hand_offs = HandOffs(server, patched)
        from_disk = told_by(server, requests)
        assert hand_offs.count == len(requests) - 1, "all but the banned one"
    assert exactly(server, get("/a/x")).endswith(b"\r\n\r\n" + content)
    hand_offs = HandOffs(server, monkeypatch)
    from_memory = told_by(server, requests)
    assert hand_offs.count == 1, "the malformed one"
    for request, seen, expected in zip(requests, from_memory[0], from_disk[0]):
        assert seen == expected, request
    assert from_memory[1:] == from_disk[1:]
    assert [line["status"] for line in from_memory[1]] == [answer.split(b" ")[1].decode() for answer in from_memory[0]]


def test_metrics_count_what_a_stuck_log_never_writes(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """MT-1, LG-1: a log that nobody reads holds up nobody, /metrics neither; lines may be lost, counts not."""
    monkeypatch.setattr(logfmt, "MAX_LINES", 5)
    reading, writing = os.pipe()
    with contextlib.ExitStack() as held:
        held.callback(os.close, writing)
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(65_536))
        os.set_blocking(writing, True)
        monkeypatch.setattr(conftest, "Log", lambda descriptor, verbose: Log(writing, verbose, 0.001))
        server = start()
        held.callback(everybody_is_gone, server)
        held.callback(os.close, reading)  # first of all, whatever happens: frees the log's thread
        with server.peer(3) as peer:
            for number in range(1, 4):
                assert [peer.get("/robots.txt").status for _ in range(10)] == [200] * 10
                assert f'requests_total{{method="GET",status="200"}} {11 * number - 1}.0\n' in peer.get("/metrics").text


# ---- Slow readers


def tighten(server: Running) -> None:
    """Little fits between the server and the peers that are connected now."""
    for connection in server.server._open:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)


def slow_peer(server: Running) -> Peer:
    peer = server.peer()
    everybody_rests(server, 1)
    tighten(server)
    return peer


def answered(server: Running, target: str) -> int:
    return sum(f'target="{target}"' in line for line in server.log())


def ask_until_handed_off(server: Running, peer: Peer, other: Peer, hand_offs: HandOffs) -> int:
    """Asks for /a/x without reading, one request after the other, until an answer does not fit; gives their number."""
    for count in itertools.count(1):
        peer.send(get("/a/x"))
        until(lambda: answered(server, "/a/x") == count)  # noqa: B023  # called at once
        for _ in range(2):  # the second time, the round that answered `peer` is over
            assert other.get("/robots.txt").status == 200
        if hand_offs.count:
            break
        assert count < 1_000
    return count


def test_a_client_that_asks_and_never_reads_holds_nobody_up(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not take an answer gets a thread that waits for it. When it reads after all, nothing is missing."""
    content = SMALL * 4
    keep(server, "a/x", content)
    server.log_path.write_text("")
    hand_offs, before = HandOffs(server, monkeypatch), threads()
    with slow_peer(server) as slow, server.peer() as other:
        count = ask_until_handed_off(server, slow, other, hand_offs)
        for _ in range(50):
            assert other.get("/a/x").body == content
        assert hand_offs.count == 1
        assert len(threads() - before) == 1
        assert [slow.reply().body for _ in range(count)] == [content] * count
        assert slow.get("/").status == 200
        everybody_rests(server, 2)
        until(lambda: threads() <= before)


def test_an_answer_that_fits_in_part_goes_on_where_it_stopped(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"".join(b"%07d " % number for number in range(1_000_000))
    serve(server, lambda exchange: Answer(200, (), content))
    hand_offs = HandOffs(server, monkeypatch)
    with server.peer() as slow:
        slow.send(get("/quick"))
        until(lambda: hand_offs.count == 1)
        assert slow.reply().body == content


@pytest.mark.parametrize("leaves", ["with a reset", "after a while"])
def test_a_client_that_never_reads_is_let_go(start: Start, monkeypatch: pytest.MonkeyPatch, leaves: str) -> None:
    server = start(limits=LimitOptions(body_idle_seconds=IMPATIENT if leaves == "after a while" else 60))
    keep(server, "a/x", SMALL * 4)
    server.log_path.write_text("")
    hand_offs, before = HandOffs(server, monkeypatch), threads()
    with slow_peer(server) as slow, server.peer() as other:
        ask_until_handed_off(server, slow, other, hand_offs)
        if leaves == "with a reset":
            vanish(slow)
        everybody_rests(server, 1)
        until(lambda: threads() <= before)
        assert other.get("/").status == 200


def test_clients_that_pipeline_and_never_read_hold_nobody_up(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(server, "a/x", SMALL * 4)
    hand_offs = HandOffs(server, monkeypatch)
    with contextlib.ExitStack() as crowd:
        slow = [crowd.enter_context(server.peer()) for _ in range(8)]
        everybody_rests(server, 8)
        tighten(server)
        for peer in slow:
            peer.send(get("/a/x") * 100)
        other = crowd.enter_context(server.peer())
        for _ in range(50):
            assert other.get("/a/x").body == SMALL * 4
        until(lambda: hand_offs.count == 8)
        assert [slow[3].reply().body for _ in range(100)] == [SMALL * 4] * 100


# ---- Requests in any pieces and mixtures

MIXTURE = [
    get("/a/x"),
    upload("b", "y", b"new"),
    get("/b/y"),
    get("/a/large"),
    raw("GET /a/x HTTP/1.1", "Content-Length: 5", body=b"GET /"),
    head("/a/large"),
    raw("GET /a/x HTTP/1.0", "Connection: keep-alive"),
    raw("POST / HTTP/1.1", "Content-Length: 5", body=b"GET /"),
    b"\r\n" + get("/nothing"),
    raw("GET /a/x HTTP/1.1", "Content-Length: 0"),
    get("/", "Connection: close"),
]
AFTER_THE_CLOSE = get("/smuggled")


def pieces_of(how: str) -> list[bytes]:
    data = b"".join(MIXTURE)
    if how == "in one":
        return [data + AFTER_THE_CLOSE]
    if how == "in drops":
        return [data[at : at + 1] for at in range(len(data))]
    if how == "across":
        return [data[at : at + 97] for at in range(0, len(data), 97)]
    return MIXTURE


@pytest.mark.parametrize("how", ["one by one", "in one", "across", "in drops"])
def test_pipelined_requests_of_all_kinds_are_answered_in_their_order(server: Running, how: str) -> None:
    """DL-8, UP-1; and what follows a close is not executed (RFC 9112 9.6)."""
    keep(server, "a/x")
    keep(server, "a/large", LARGE)
    with server.peer() as peer:
        for piece in pieces_of(how):
            peer.send(piece)
        replies = [peer.reply(head_only=request.startswith(b"HEAD")) for request in MIXTURE]
        assert peer.rest() == b""
    bodies = [reply.body for reply in replies if reply.status == 200]
    assert [reply.status for reply in replies] == [200, 200, 200, 200, 200, 200, 200, 405, 404, 200, 200]
    assert bodies == [SMALL, b"", b"new", LARGE, SMALL, b"", SMALL, SMALL, b"KernelCI Proxy Server"]
    assert [reply.fields.get("connection") for reply in replies] == [*[None] * 6, "keep-alive", *[None] * 3, "close"]
    assert [line["target"] for line in accesses(server)].count("/smuggled") == 0


ALONE = [
    get("/a/x"),
    head("/a/x"),
    get("/a/x", "Range: bytes=1-3"),
    raw("GET /a/x HTTP/1.0", "Connection: keep-alive"),
    get("/a/large", "Range: bytes=5-30000"),
    get("/nothing"),
    get("/v1/list"),
    raw("GET /a/x HTTP/1.1", "Content-Length: 9", body=b"GET / HTT"),
    raw("POST /upload HTTP/1.1", "Content-Length: 9", body=b"GET / HTT"),
    get("/", "Connection: close"),
    raw("GET /a/x HTTP/1.0"),
    b"\x16\x03\x01",
]


@st.composite
def schedules(draw: st.DrawFn) -> tuple[list[list[bytes]], list[tuple[int, bytes]]]:
    """What each of a few connections asks; and all its pieces in an order, each with the number of its connection."""
    requests = st.lists(st.sampled_from(ALONE), min_size=1, max_size=4)
    asked = draw(st.lists(requests, min_size=1, max_size=4))
    pieces = []
    for number, data in enumerate(map(b"".join, asked)):
        cuts = sorted(draw(st.sets(st.integers(1, len(data) - 1), max_size=5)))
        pieces.append([(number, data[begin:end]) for begin, end in zip([0, *cuts], [*cuts, len(data)])])
    turns = draw(st.permutations([number for number, mine in enumerate(pieces) for _ in mine]))
    queues = [iter(mine) for mine in pieces]
    return asked, [next(queues[number]) for number in turns]


@SOCKETS
@given(schedule=schedules())
def test_connections_do_not_hear_of_each_other(
    server: Running, schedule: tuple[list[list[bytes]], list[tuple[int, bytes]]]
) -> None:
    """Invariant: however the bytes of some connections come in, each gets the answers that each request gets alone."""
    if not (server.storage / "a").exists():
        keep(server, "a/x")
        keep(server, "a/large", LARGE)
    asked, pieces = schedule
    alone = {request: exactly(server, request) for requests in asked for request in requests}
    with contextlib.ExitStack() as crowd:
        peers = [crowd.enter_context(server.peer()) for _ in asked]
        for number, piece in pieces:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # after the last answer
                peers[number].send(piece)
        for peer, requests in zip(peers, asked):
            peer.socket.shutdown(socket.SHUT_WR)
            expected = b""
            for request in requests:
                expected += alone[request].replace(b"Connection: close\r\n", b"")
                if b"Connection: close\r\n" in alone[request]:
                    break
            seen = re.sub(rb"\r\nDate: [^\r]*|(?<=\n)Connection: close\r\n", b"", peer.rest())
            assert seen == expected


def test_no_connection_gets_what_another_asked_for(server: Running) -> None:
    """Descriptors of connections that end are those of the next ones; some end with answers on their way."""
    for number in range(4):
        keep(server, f"a/{number}", b"%d" % number * 1_000)
    wrong: list[bytes] = []

    def come_and_go(number: int) -> None:
        for visit in range(50):
            with server.peer() as peer:
                peer.send(get(f"/a/{number}"))
                if visit % 3:
                    body = peer.reply().body
                    if body != b"%d" % number * 1_000:
                        wrong.append(body)
                if visit % 2:
                    vanish(peer)

    visitors = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(30)
    assert wrong == []


# ---- Clients that do not behave

GARBAGE = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "NUL": b"\0",
    "a line feed": b"\n",
    "SSH": b"SSH-2.0-OpenSSH_9.0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a line without CR": b"GET / HTTP/1.1\nHost: test\n\n",
    "a head without Host": b"GET / HTTP/1.1\r\n\r\n",
    "a coding that nobody knows": raw("GET /a/x HTTP/1.1", "Transfer-Encoding: gzip", body=b"x"),
}


@pytest.mark.parametrize("before", [b"", get("/")], ids=["the first", "the second"])
@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_ends_its_connection_and_no_other(server: Running, data: bytes, before: bytes) -> None:
    with server.peer() as other, server.peer() as peer:
        everybody_rests(server, 2)
        if before:
            assert peer.send(before).reply().status == 200
        reply = peer.send(data).reply()
        assert (reply.status, reply.fields["connection"]) == (400, "close")
        assert peer.rest() == b""
        assert other.get("/").status == 200
    assert len(accesses(server)) == 2 + bool(before)


HALVES = {
    "nothing": (b"", 0),
    "an empty line": (b"\r\n", 0),
    "half a head": (b"GET / HTTP/1.1\r\nHo", 0),
    "a small request": (get("/a/x"), 1),
    "the last one": (get("/a/x", "Connection: close"), 1),
    "and half another": (get("/a/x") + b"GET", 1),
    "two": (get("/a/x") + get("/v1/list"), 2),
}


@pytest.mark.parametrize(("data", "count"), HALVES.values(), ids=HALVES.keys())
def test_a_half_closed_client_gets_its_answers_and_the_end(server: Running, data: bytes, count: int) -> None:
    """RFC 9112 9.6: as `printf ... | nc -N` makes one."""
    keep(server, "a/x")
    server.log_path.write_text("")
    assert exactly(server, data).count(b"HTTP/1.1 200 OK\r\n") == count
    assert len(accesses(server)) == count


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HT",
        get("/a/x"),
        get("/a/x", "Connection: close"),
        get("/a/x") * 50,
        get("/a/large"),
        b"\0",
        b"\r\n",
    ],
    ids=["at rest", "in a head", "answered", "leaving", "pipelining", "in a thread", "refused", "between"],
)
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_a_reset_ends_its_connection_and_no_other(server: Running, data: bytes, read: bool) -> None:
    keep(server, "a/x")
    (server.storage / "a" / "large").write_bytes(LARGE)
    with server.peer() as other, server.peer() as peer:
        everybody_rests(server, 2)
        peer.send(data)
        if read and b"\r\n\r\n" in data:
            peer.take(100)
        vanish(peer)
        everybody_rests(server, 1)
        assert other.get("/a/x").body == SMALL


def test_a_client_that_vanishes_on_its_way_to_a_thread_is_no_fault(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_offs = HandOffs(server, monkeypatch)
    with server.peer() as peer, hand_offs.held_up():
        peer.send(get("/v1/list"))
        until(lambda: hand_offs.count == 1)
        vanish(peer)
    assert [line["target"] for line in accesses(server)] == ["/v1/list"]


def test_urgent_data_is_nobodys_business(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP's out-of-band byte is in no stream. Were it a reason to wake up, it would be one for ever."""
    with server.peer() as peer:
        everybody_rests(server, 1)
        (connection,) = server.server._open
        attend, once = connection.attend, threading.Semaphore(1)

        def attend_once() -> bool:
            assert once.acquire(blocking=False)
            return attend()

        with monkeypatch.context() as patched:
            patched.setattr(connection, "attend", attend_once)
            peer.socket.send(b"!", socket.MSG_OOB)
            assert peer.get("/").status == 200
        everybody_rests(server, 1)


LAST = {"HTTP/1.1": get("/a/x", "Connection: close"), "HTTP/1.0": raw("GET /a/x HTTP/1.0")}


@pytest.mark.parametrize("data", LAST.values(), ids=LAST.keys())
def test_the_last_answer_is_followed_by_the_end_and_takes_no_thread(
    server: Running, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    keep(server, "a/x")
    hand_offs = HandOffs(server, monkeypatch)
    with server.peer() as peer:
        reply = peer.send(data).reply()
        assert (reply.body, reply.fields["connection"]) == (SMALL, "close")
        assert peer.rest() == b""
        everybody_rests(server, 1)
    everybody_is_gone(server)
    assert hand_offs.count == 0


def test_a_client_that_stays_after_the_last_answer_is_left(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kcistorage, "LINGER_IDLE", IMPATIENT)
    server = start(limits=LimitOptions(head_seconds=1, keep_alive_seconds=60))
    hand_offs = HandOffs(server, monkeypatch)
    with server.peer() as peer:
        began = time.monotonic()
        assert peer.send(get("/", "Connection: close")).reply().status == 200
        everybody_is_gone(server)
        assert IMPATIENT / 2 < time.monotonic() - began < 5
    assert hand_offs.count == 0


def write_on(peer: Peer, other: Peer) -> NoReturn:
    """Writes until it is cut off, while another client is served."""
    while True:
        peer.send(AFTER_THE_CLOSE * 100)
        assert other.get("/robots.txt").status == 200


def test_a_client_that_writes_on_after_the_last_answer_is_not_heard_and_left_after_a_while(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9112 9.6: others are served meanwhile."""
    monkeypatch.setattr(kcistorage, "LINGER_IDLE", IMPATIENT)
    server = start(limits=LimitOptions(head_seconds=1, keep_alive_seconds=60))
    hand_offs = HandOffs(server, monkeypatch)
    with server.peer() as peer, server.peer() as other:
        began = time.monotonic()
        assert peer.send(get("/", "Connection: close")).reply().status == 200
        assert peer.rest() == b""
        with pytest.raises(ConnectionError):
            write_on(peer, other)
        assert IMPATIENT / 2 < time.monotonic() - began < 5
    assert hand_offs.count == 0
    assert {line["target"] for line in accesses(server)} == {"/", "/robots.txt"}


# ---- Time-outs

USED = {
    "small": get("/"),
    "small, after a heavy one": get("/v1/list") + get("/"),
    "an answer that is waited with": get("/v1/checkauth"),
}


@pytest.mark.parametrize("data", [b"", *USED.values()], ids=["new", *USED.keys()])
def test_a_connection_rests_just_so_long(start: Start, data: bytes) -> None:
    """A new one has the time of a head, one that was used that between requests; the other limit is out of reach."""
    short, long = IMPATIENT, 60
    limits = LimitOptions(head_seconds=long if data else short, keep_alive_seconds=short if data else long)
    server = start(limits=limits)
    with server.peer() as peer:
        began = time.monotonic()
        peer.send(data)
        for _ in range(data.count(b"HTTP/1.1")):
            peer.reply()
        assert peer.rest() == b"", "an end without a word, and not a reset"
        assert IMPATIENT / 2 < time.monotonic() - began < 5
    assert len(accesses(server)) == data.count(b"HTTP/1.1")


def test_each_answer_renews_the_rest(start: Start) -> None:
    server = start()
    with server.peer() as peer:
        everybody_rests(server, 1)
        (connection,) = server.server._open
        deadlines = [connection.deadline]
        for data in [get("/"), get("/"), get("/v1/list") + get("/"), get("/")]:
            peer.send(data)
            for _ in range(data.count(b"HTTP/1.1")):
                assert peer.reply().status == 200
            everybody_rests(server, 1)
            deadlines.append(connection.deadline)
        assert deadlines[1] - deadlines[0] > 15, "from 10 seconds to 30"
        assert deadlines == sorted(set(deadlines))


def test_many_rest_out_their_time_together(start: Start) -> None:
    server = start(limits=LimitOptions(head_seconds=IMPATIENT))
    with contextlib.ExitStack() as crowd:
        peers = [crowd.enter_context(server.peer()) for _ in range(50)]
        assert [peer.rest() for peer in peers] == [b""] * 50
    everybody_is_gone(server)


# ---- The cap


def test_connections_at_rest_count(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the cap a few are told 503 by threads; beyond these the door is shut. One that leaves makes room."""
    monkeypatch.setattr(kcistorage, "REFUSAL_SLOTS", 1)
    server = start(limits=LimitOptions(connections=2))
    hand_offs = HandOffs(server, monkeypatch)
    with server.peer() as new, server.peer() as used:
        assert used.get("/").status == 200
        everybody_rests(server, 2)
        with server.peer() as told:
            assert told.reply().status == 503
            with server.peer() as beyond, contextlib.suppress(ConnectionResetError):
                assert beyond.rest() == b""
            assert hand_offs.count == 1
            assert new.get("/").status == used.get("/").status == 200
        everybody_rests(server, 2)
        vanish(new)
        everybody_rests(server, 1)
        with server.peer() as next_one:
            assert next_one.get("/").status == 200
            everybody_rests(server, 2)


# ---- Ending in good order (CF-3)


class Stop:
    """Stops a server in a thread of its own; `looking` is set when it has told the idle connections."""

    def __init__(self, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looking = threading.Event()
        self._answers: list[bool] = []
        wait_for = server.server._changed.wait_for

        def wait(predicate: Callable[[], bool], seconds: float) -> bool:
            self.looking.set()
            return wait_for(predicate, seconds)

        monkeypatch.setattr(server.server._changed, "wait_for", wait)
        self._thread = threading.Thread(target=lambda: self._answers.append(server.server.stop(10)))
        self._thread.start()

    def in_time(self) -> bool:
        self._thread.join(15)
        return self._answers == [True]


def test_the_stop_ends_all_who_rest_and_the_lobby(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """New ones, used ones, one whose last answer is out: all are woken, and none waits for the lobby's next look at the
    clock. No thread and no descriptor is left.
    """
    lobby = server.server.lobby
    assert lobby is not None
    monkeypatch.setattr(lobby, "_tick", 1_000.0)
    monkeypatch.setattr(lobby, "_next_look", time.monotonic() + 1_000)
    with contextlib.ExitStack() as crowd:
        peers = [crowd.enter_context(server.peer()) for _ in range(40)]
        everybody_rests(server, 40)
        assert [peer.get("/").status for peer in peers[::2]] == [200] * 20
        peers[0].send(get("/", "Connection: close"))
        stop = Stop(server, monkeypatch)
        assert peers[0].rest().endswith(b"KernelCI Proxy Server")
        assert [peer.rest() for peer in peers[1:]] == [b""] * 39
        assert stop.in_time()
    assert lobby._epoll is not None
    until(lambda: not lobby.is_alive())
    assert lobby._epoll.closed


def test_a_request_that_is_being_attended_during_the_stop_is_answered(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    attended, go = threading.Event(), threading.Event()

    def wait(exchange: Exchange) -> Answer:
        attended.set()
        assert go.wait(10)
        return Answer(200, (), b"done")

    serve(server, wait)
    with server.peer() as peer, server.peer() as other:
        peer.send(get("/quick"))
        assert attended.wait(5)
        other.send(get("/robots.txt"))
        stop = Stop(server, monkeypatch)
        assert stop.looking.wait(5)
        go.set()
        reply = peer.reply()
        assert (reply.status, reply.body, reply.fields["connection"]) == (200, b"done", "close")
        assert peer.rest() == b""
        assert stop.in_time()


def test_an_upload_on_its_way_to_a_thread_during_the_stop_ends_well(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UP-8: its head is read, so it is running, although nobody runs it yet. Its body is still to come."""
    hand_offs, reading_half = HandOffs(server, monkeypatch), select.poll()
    request = upload("a", "x", SMALL)
    cut = request.index(b"\r\n\r\n") + 4
    with server.peer() as peer:
        everybody_rests(server, 1)
        (connection,) = server.server._open
        reading_half.register(connection.socket, select.POLLRDHUP)
        with hand_offs.held_up():
            peer.send(request[:cut])
            until(lambda: hand_offs.count == 1)
            stop = Stop(server, monkeypatch)
            assert stop.looking.wait(5)
            assert reading_half.poll(0) == [], "the body would be cut off"
        peer.send(request[cut:])
        reply = peer.reply()
        assert (reply.status, reply.fields["connection"]) == (200, "close")
        assert peer.rest() == b""
    assert stop.in_time()
    assert (server.storage / "a" / "x").read_bytes() == SMALL


def test_half_a_head_on_its_way_to_a_thread_does_not_hold_up_the_stop(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_offs = HandOffs(server, monkeypatch)
    with server.peer() as peer:
        with hand_offs.held_up():
            peer.send(b"GET / HT")
            until(lambda: hand_offs.count == 1)
            stop = Stop(server, monkeypatch)
            assert stop.looking.wait(5)
        with contextlib.suppress(ConnectionResetError):
            assert peer.rest() == b""
        assert stop.in_time()


@pytest.mark.parametrize("where", ["at the door", "inside"])
def test_a_connection_that_comes_to_rest_during_the_stop_ends(
    start: Start, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """`stop` looks for idle ones once: who was not idle then must find the lobby closed, or be found there."""
    server = start(limits=LimitOptions(keep_alive_seconds=1))
    lobby = server.server.lobby
    assert lobby is not None
    arrived, go = threading.Event(), threading.Event()
    admit, rest = lobby.admit, Connection.rest

    def admit_late(connection: Connection) -> bool:
        arrived.set()
        assert go.wait(10)
        until(lambda: not lobby.is_alive())
        return admit(connection)

    def rest_late(self: Connection) -> None:
        arrived.set()
        assert go.wait(10)
        rest(self)

    with server.peer() as peer:
        everybody_rests(server, 1)
        if where == "at the door":
            monkeypatch.setattr(lobby, "admit", admit_late)
        else:
            monkeypatch.setattr(Connection, "rest", rest_late)
        peer.send(get("/v1/list") + get("/"))
        assert peer.reply().status == peer.reply().status == 200
        assert arrived.wait(5)
        stop = Stop(server, monkeypatch)
        assert stop.looking.wait(5)
        go.set()
        assert peer.rest() == b""
        assert stop.in_time()


# ---- Faults of ours: they cost one request, or at most one connection


def fail(*_: object) -> NoReturn:
    raise ZeroDivisionError("a secret of ours")


@pytest.mark.parametrize("where", ["handler", "gate"])
def test_a_fault_in_the_lobby_is_500_and_everybody_stays(
    server: Running, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """LG-1: the trace is in the log alone."""

    def gate(exchange: Exchange) -> None:
        if where == "gate" and exchange.path == "/quick":
            fail()

    serve(server, fail, gate)
    hand_offs = HandOffs(server, monkeypatch)
    with server.peer() as other, server.peer() as peer:
        everybody_rests(server, 2)
        reply = peer.get("/quick")
        assert (reply.status, reply.text) == (500, "Internal Server Error")
        assert peer.get("/").status == other.get("/").status == 200
    assert hand_offs.count == 0
    logged = values(server.wait_for_log("event=error"))
    assert (logged["reason"], logged["target"]) == ("internal-error", "/quick")
    assert "ZeroDivisionError: a secret of ours" in logged["trace"]
    assert [line["status"] for line in accesses(server)] == ["500", "200", "200"]


@pytest.mark.parametrize("step", ["attend", "hand_over"])
def test_a_fault_outside_of_any_request_costs_that_connection_alone(
    server: Running, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with server.peer() as other, server.peer() as peer:
        everybody_rests(server, 2)
        (first,) = (one for one in server.server._open if one.socket.getpeername() == peer.socket.getsockname())
        monkeypatch.setattr(first, step, fail)
        peer.send(get("/"))
        with contextlib.suppress(ConnectionResetError):
            assert peer.rest() == b""
        everybody_rests(server, 1)
        assert other.get("/").status == 200
    logged = values(server.wait_for_log("event=error"))
    assert logged["reason"] == "connection-failed"
    assert "ZeroDivisionError" in logged["trace"]


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_no_thread_to_be_had_is_a_fault_that_costs_that_connection_alone(
    server: Running, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def no_thread(self: threading.Thread) -> NoReturn:
        raise error

    with server.peer() as other, server.peer() as peer:
        everybody_rests(server, 2)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_thread)
            peer.send(get("/v1/list"))
            with contextlib.suppress(ConnectionResetError):
                assert peer.rest() == b""
        everybody_rests(server, 1)
        assert other.get("/").status == other.get("/v1/list").status == 200
    assert type(error).__name__ in values(server.wait_for_log("event=error"))["trace"]


def test_a_fault_on_the_way_to_a_thread_costs_that_connection_alone(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: were the lobby to die of it, nobody would be served any more."""
    with server.peer() as other, server.peer() as peer:
        everybody_rests(server, 2)
        with monkeypatch.context() as patched:
            patched.setattr(server.server, "employ", fail)
            peer.send(get("/v1/list"))
            with contextlib.suppress(ConnectionResetError):
                assert peer.rest() == b""
        everybody_rests(server, 1)
        assert other.get("/").status == other.get("/v1/list").status == 200
    assert "ZeroDivisionError" in values(server.wait_for_log("event=error"))["trace"]


class NoMoreWatches:
    """An epoll set of a system that watches no more descriptors (fs.epoll.max_user_watches)."""

    def __init__(self, epoll: object) -> None:
        self._epoll = epoll

    def register(self, *_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    def __getattr__(self, name: str) -> object:
        return getattr(self._epoll, name)


def test_a_connection_that_cannot_be_watched_has_a_thread(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    lobby = server.server.lobby
    assert lobby is not None
    monkeypatch.setattr(lobby, "_epoll", NoMoreWatches(lobby._epoll))
    with server.peer(3) as peer:
        for _ in range(3):
            assert peer.get("/").status == 200


# ---- Without epoll(7)


@pytest.fixture
def poor(start: Start, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A server on a system that has no epoll(7), as macOS."""
    monkeypatch.delattr(select, "epoll")
    return start(limits=LimitOptions(keep_alive_seconds=IMPATIENT))


def test_without_epoll_a_connection_keeps_its_thread(poor: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """DL-8"""
    serve, served = Connection._serve, set[tuple[Connection, threading.Thread]]()

    def noted_serve(connection: Connection, exchange: Exchange, asked: bool) -> bool:
        served.add((connection, threading.current_thread()))
        return serve(connection, exchange, asked)

    monkeypatch.setattr(Connection, "_serve", noted_serve)
    with poor.peer() as peer, poor.peer() as other:
        assert [peer.get("/").status for _ in range(3)] == [200] * 3
        assert other.send(upload("a", "x", SMALL) + get("/a/x") * 2).reply().status == 200
        assert [other.reply().body for _ in range(2)] == [SMALL] * 2
        for status, data in [(200, get("/a/x")), (404, get("/nothing")), (200, get("/v1/list")), (200, get("/a/x"))]:
            assert other.send(data).reply().status == status
            assert peer.get("/a/x").body == SMALL
        kept, keepers = zip(*served)
        assert len(served) == len({*kept}) == len({*keepers}) == 2
        assert peer.rest() == other.rest() == b"", "in the end they are idle for too long"
    until(lambda: not poor.server.connections)


def test_without_epoll_everything_else_is_the_same(poor: Running) -> None:
    furnish(poor)
    for data, status in (*QUICK.values(), *HEAVY.values()):
        with poor.peer() as peer:
            for _ in range(2):
                assert peer.send(data).reply(head_only=data.startswith(b"HEAD")).status == status
    with poor.peer() as peer:
        assert peer.send(get("/", "Connection: close")).reply().status == 200
        assert peer.rest() == b""


def test_without_epoll_the_stop_ends_idle_connections(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")
    server = start()
    with server.peer() as new, server.peer() as used:
        assert used.get("/").status == 200
        until(lambda: server.server.connections == 2)
        stop = Stop(server, monkeypatch)
        assert new.rest() == used.rest() == b""
        assert stop.in_time()


# ---- What is in memory is what is stored


def test_an_object_in_memory_waits_for_its_upload(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """DL-6: while its key is uploaded to, a thread waits, and then gives the new bytes; other keys do not wait."""
    old, new = SMALL, SMALL[::-1]
    keep(server, "a/x", old)
    keep(server, "a/y", old)
    hand_offs = HandOffs(server, monkeypatch)
    with server.peer() as getting, server.peer() as heading, server.peer() as other:
        assert getting.get("/a/x").body == old
        assert hand_offs.count == 0
        with HalfUpload(server, "a", "x", new) as half:
            getting.send(get("/a/x"))
            heading.send(head("/a/x"))
            until(lambda: hand_offs.count == 3)
            for _ in range(3):
                assert other.get("/a/y").body == old
            assert hand_offs.count == 3
            etag = half.finish().fields["etag"]
        assert (reply := getting.reply()).body == new
        assert reply.fields["etag"] == heading.reply(head_only=True).fields["etag"] == etag
        assert other.get("/a/x").body == new
        before = hand_offs.count
        assert other.get("/a/x").body == new
        assert hand_offs.count == before, "it is in memory again"


def test_an_object_in_memory_waits_for_its_upload_just_so_long(start: Start) -> None:
    """DL-6: 408; and it is as it was when the uploader has gone."""
    server = start(limits=LimitOptions(lock_seconds=IMPATIENT))
    keep(server, "a/x")
    with server.peer() as peer:
        assert peer.get("/a/x").body == SMALL
        with HalfUpload(server, "a", "x", SMALL[::-1]) as half:
            assert peer.get("/a/x").status == 408
            half.vanish()
        until(lambda: server.server.connections == 1)
        assert peer.get("/a/x").body == SMALL


def test_an_overwrite_through_another_server_is_seen_by_the_next_request(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UP-8, DL-2: two servers on one folder; each keeps the object in memory, and neither gives an old one."""
    mine = start()
    theirs = start(local=mine.config.local)
    hand_offs = HandOffs(theirs, monkeypatch)
    with mine.peer() as uploader, theirs.peer() as reader:
        for number in range(10):
            content = b"%d" % number * 1_000
            etag = uploader.upload(token(), "a", "x", content).fields["etag"]
            assert reader.ask("HEAD", "/a/x").fields["etag"] == etag
            for _ in range(3):
                reply = reader.get("/a/x")
                assert (reply.body, reply.fields["etag"]) == (content, etag)
            before = hand_offs.count
            assert reader.get("/a/x", f"If-None-Match: {etag}").status == 304
            assert hand_offs.count == before, "it was in memory"


@pytest.mark.parametrize("change", ["removed", "replaced by hand", "a folder now", "a dangling link"])
def test_an_object_in_memory_is_gone_when_its_file_is(server: Running, change: str) -> None:
    """DL-3: memory is never asked without a look at the file."""
    keep(server, "a/x")
    path = server.storage / "a" / "x"
    with server.peer() as peer:
        assert peer.get("/a/x").body == SMALL
        path.unlink()
        if change == "replaced by hand":
            path.write_bytes(SMALL[::-1])
        elif change == "a folder now":
            path.mkdir()
        elif change == "a dangling link":
            path.symlink_to("nowhere")
        reply = peer.get("/a/x")
        assert (reply.status, reply.body) == (
            (200, SMALL[::-1]) if change == "replaced by hand" else (404, b"Not Found: a/x")
        )


# ---- What is left in the end


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


VISITS: list[tuple[bytes, int, bool]] = [  # sent, bytes read, with a reset
    (b"", 0, False),
    (b"", 0, True),
    (b"GET /a/x HT", 0, False),
    (b"GET /a/x HT", 0, True),
    (b"\x16\x03\x01", 100, False),
    (b"\x16\x03\x01", 0, True),
    (get("/a/x"), 0, False),
    (get("/a/x"), 0, True),
    (get("/a/x"), 4_000, False),
    (get("/a/x", "Connection: close"), 4_000, False),
    (get("/a/x", "Connection: close"), 100, True),
    (get("/a/x") * 20, 4_000, True),
    (get("/a/large"), 100_000, True),
    (get("/a/large"), 0, False),
    (head("/a/large"), 100, False),
    (get("/nothing"), 100, False),
    (get("/v1/list") + get("/a/x"), 100, False),
    (upload("b", "y", SMALL), 50, False),
    (upload("b", "z", SMALL)[:-100], 0, False),
    (upload("b", "z", SMALL)[:-100], 0, True),
]


def test_nothing_is_left_of_five_hundred_connections(server: Running) -> None:
    """No descriptor, thread, lock or unfinished upload; what they ask for, what they read and how they leave varies."""
    keep(server, "a/x")
    keep(server, "a/large", LARGE)
    everybody_is_gone(server)
    descriptors, before = open_files(), threads()
    for _ in range(25):
        with contextlib.ExitStack() as crowd:
            peers = [crowd.enter_context(server.peer()) for _ in VISITS]
            for peer, (data, _, _) in zip(peers, VISITS):
                peer.send(data)
            for peer, (_, read, with_reset) in zip(peers, VISITS):
                peer.take(read)
                if with_reset:
                    vanish(peer)
    everybody_is_gone(server)
    until(lambda: threads() <= before)
    assert open_files() <= descriptors
    assert list((server.storage / ".metadata" / "uploads").iterdir()) == []
    with server.peer() as peer:
        assert peer.get("/a/x").body == peer.get("/a/x").body == SMALL
