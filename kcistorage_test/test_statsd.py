"""Counters and timings by UDP (SO-10), as a receiver gets them."""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest

import stor
from kcistorage_parts import statsd
from kcistorage_parts.statsd import Statsd
from kcistorage_test.test_handlers import until
from kcistorage_test.test_stor import SHA, StartStor, get, post, start_stor

__all__ = ["start_stor"]  # a fixture


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        yield receiver


def port_of(receiver: socket.socket) -> int:
    port: int = receiver.getsockname()[1]
    return port


def told(receiver: socket.socket, lines: int) -> list[str]:
    """So many lines, from as many datagrams as they come in."""
    found: list[str] = []
    while len(found) < lines:
        datagram = receiver.recv(65_536)
        assert datagram.endswith(b"\n")
        found += datagram.decode().splitlines()
    return found


@pytest.mark.parametrize(
    ("prefix", "rate", "method", "status", "seconds", "lines"),
    [
        ("stor.dev", 1.0, "GET", 200, 0.0123, ["stor.dev.get.time:12.300|ms", "stor.dev.get.200:1|c"]),
        ("", 1.0, "POST", 507, 0.0, ["post.time:0.000|ms", "post.507:1|c"]),
        ("s", 1.0, "HEAD", 404, 3600.0, ["s.head.time:3600000.000|ms", "s.head.404:1|c"]),
        ("s", 1.0, "X:|@\n#.y", 501, 0.001, ["s.x______y.time:1.000|ms", "s.x______y.501:1|c"]),
        ("s", 1.0, "M" * 9_000, 501, 0.001, [f"s.{'m' * 16}.time:1.000|ms", f"s.{'m' * 16}.501:1|c"]),
        ("s", 0.25, "GET", 200, 0.001, ["s.get.time:1.000|ms|@0.25", "s.get.200:1|c|@0.25"]),
    ],
)
def test_lines(
    receiver: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    prefix: str,
    rate: float,
    method: str,
    status: int,
    seconds: float,
    lines: list[str],
) -> None:
    """SO-10: no method can make a line of its own."""
    monkeypatch.setattr(random, "random", lambda: 0.0)
    one = Statsd("127.0.0.1", port_of(receiver), prefix, rate)
    one.answered(method, status, seconds)
    assert told(receiver, 2) == lines
    one.answered(method, status, seconds)
    assert told(receiver, 2) == lines, "and it goes on"
    one.close()


def test_what_comes_together_leaves_together(receiver: socket.socket) -> None:
    """SO-10: in datagrams that no network takes apart, each of whole lines; the counts are added up."""
    one = Statsd("127.0.0.1", port_of(receiver), "s", 1.0)
    for number in range(300):
        one.answered("GET", 200 if number % 3 else 404, number / 1000)
    one.close()
    datagrams: list[bytes] = []
    while sum(datagram.count(b"|ms\n") for datagram in datagrams) < 300 or b"|c\n" not in datagrams[-1]:
        datagrams.append(receiver.recv(65_536))
    assert len(datagrams) < 10
    assert all(len(datagram) <= statsd.DATAGRAM and datagram.endswith(b"\n") for datagram in datagrams)
    lines = b"".join(datagrams).decode().splitlines()
    assert [line for line in lines if "time" in line] == [f"s.get.time:{number}.000|ms" for number in range(300)]
    counts: Counter[str] = Counter()
    for name, _, value in (line.partition(":") for line in lines if "time" not in line):
        counts[name] += int(value.partition("|")[0])
    assert counts == {"s.get.200": 200, "s.get.404": 100}


def test_what_is_too_much_is_not_kept(receiver: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsd, "MOST", 10)
    one = Statsd("127.0.0.1", port_of(receiver), "s", 1.0)
    for number in range(1_000):
        one.answered("GET", 200, number)
    one.close()
    assert "s.get.time:999000.000|ms" in told(receiver, 11)
    assert len(one._answered) == 0


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.1, 0.001])
def test_the_sample_rate(receiver: socket.socket, monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """SO-10: of all requests so many are told, each line with the rate."""
    draws = iter(range(10_000))
    monkeypatch.setattr(random, "random", lambda: next(draws) % 1_000 / 1_000)
    one = Statsd("127.0.0.1", port_of(receiver), "s", rate)
    for _ in range(1_000):
        one.answered("GET", 200, 0.001)
    one.close()
    expected, counted, timed = round(1_000 * rate), 0, 0
    while counted < expected or timed < expected:
        (line, *more) = told(receiver, 1)
        for each in (line, *more):
            assert each.endswith("" if rate == 1 else f"|@{rate:g}")
            timed += "|ms" in each
            counted += 0 if "|ms" in each else int(each.partition(":")[2].partition("|")[0])
    assert (counted, timed) == (expected, expected)


def test_nobody_listens() -> None:
    """SO-10: the kernel says so at the next datagram, and that is nobody's business."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        port = port_of(gone)
    one = Statsd("127.0.0.1", port, "s", 1.0)
    began = time.monotonic()
    for _ in range(5):
        for _ in range(200):
            one.answered("GET", 200, 0.001)
        until(lambda: not one._answered)
    one.close()
    assert time.monotonic() - began < 4


def test_a_receiver_that_does_not_read(receiver: socket.socket) -> None:
    """SO-10: what it has no room for is lost, and nobody waits."""
    one = Statsd("127.0.0.1", port_of(receiver), "s" * 500, 1.0)
    began = time.monotonic()
    for _ in range(5_000):
        one.answered("GET", 200, 0.001)
    one.close()
    assert time.monotonic() - began < 4


def test_after_the_end_nothing_is_told(receiver: socket.socket) -> None:
    """A request may end after the server."""
    one = Statsd("127.0.0.1", port_of(receiver), "s", 1.0)
    one.close()
    one.answered("GET", 200, 0.001)
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(100)


def test_a_receiver_at_an_ipv6_address() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        try:
            receiver.bind(("::1", 0))
        except OSError:
            pytest.skip("this host has no IPv6")
        receiver.settimeout(5)
        one = Statsd("::1", port_of(receiver), "s", 1.0)
        one.answered("GET", 200, 0.001)
        assert told(receiver, 2) == ["s.get.time:1.000|ms", "s.get.200:1|c"]
        one.close()


def test_a_host_that_nobody_knows() -> None:
    with pytest.raises(socket.gaierror):
        Statsd("no.such.host.invalid", 8125, "s", 1.0)


def test_what_a_server_tells(start_stor: StartStor, receiver: socket.socket) -> None:
    """SO-10: of each request, whichever way it was answered."""
    server = start_stor(statsite=stor.Statsite("127.0.0.1", "stor.dev", 1.0, port_of(receiver)))
    with server.peer() as peer:
        post(peer)
        assert [get(server).status for _ in range(2)] == [200, 200]
        peer.get("/x")
        peer.ask("HEAD", f"/{SHA}")
    lines = told(receiver, 9)
    while sum("time" in line for line in lines) < 5 or sum("|c" in line for line in lines) < 4:
        lines += told(receiver, 1)
    # What is told of different connections comes in any order.
    timed = sorted(line.partition(":")[0] for line in lines if "|ms" in line)
    assert timed == [f"stor.dev.{method}.time" for method in ("get", "get", "get", "head", "post")]
    counts: Counter[str] = Counter()
    for name, _, value in (line.partition(":") for line in lines if "|c" in line):
        counts[name] += int(value.partition("|")[0])
    expected = {"stor.dev.post.201": 1, "stor.dev.get.200": 2, "stor.dev.get.404": 1, "stor.dev.head.200": 1}
    assert counts == expected
