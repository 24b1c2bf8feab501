"""Counters and timings by UDP, in the lines of statsd, for statsite and its like (SO-10).

    <prefix>.<method>.<status>:3|c|@0.1       three requests were answered so
    <prefix>.<method>.time:12.3|ms|@0.1       one took so many milliseconds

Of `sample_rate` 0.1 a tenth of the requests is told. What comes within a tenth of a second leaves together, so that no
request makes a system call for it. Nobody waits for anything: what the network does not take is lost.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterator
from functools import lru_cache

UNSAFE = re.compile("[^a-z0-9]")
DELAY = 0.1  # seconds
MOST = 100_000  # requests in that time; of more, the oldest are not told
DATAGRAM = 1_432  # bytes that pass through an Ethernet whole


@lru_cache(maxsize=64)
def name_of(method: str) -> str:
    """A method as a part of a name."""
    return UNSAFE.sub("_", method.lower()[:16])


class Statsd:
    """One receiver. Any thread may call; a thread of its own sends."""

    def __init__(self, host: str, port: int, prefix: str, sample_rate: float) -> None:
        """Looks up the host; raises OSError."""
        self._prefix, self._rate = f"{prefix}." if prefix else "", sample_rate
        self._suffix = "" if sample_rate >= 1 else f"|@{sample_rate:g}"
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        self._socket.connect(address)
        self._answered: deque[tuple[str, int, float]] = deque(maxlen=MOST)
        self._some, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send_behind, name="statsd", daemon=True)
        self._thread.start()

    def answered(self, method: str, status: int, seconds: float) -> None:
        """A request came to its end."""
        if self._rate >= 1 or random.random() < self._rate:
            self._answered.append((method, status, seconds))
            if not self._some.is_set():
                self._some.set()

    def _send_behind(self) -> None:
        while self._some.wait() and not self._closing.wait(DELAY):
            self._some.clear()
            self._send()
        self._send()

    def _send(self) -> None:
        for datagram in self._datagrams():
            with contextlib.suppress(OSError):  # nobody listens there, or there is no room to keep it: it is gone
                self._socket.send(datagram.encode())

    def _datagrams(self) -> Iterator[str]:
        """Whole lines, as many as fit."""
        datagram = ""
        for line in self._lines():
            if datagram and len(datagram) + len(line) > DATAGRAM:
                yield datagram
                datagram = ""
            datagram += line
        if datagram:
            yield datagram

    def _lines(self) -> Iterator[str]:
        """Of what is there; all of it is taken."""
        counts: Counter[str] = Counter()
        for _ in range(len(self._answered)):
            method, status, seconds = self._answered.popleft()
            name = self._prefix + name_of(method)
            counts[f"{name}.{status}"] += 1
            yield f"{name}.time:{seconds * 1000:.3f}|ms{self._suffix}\n"
        for name, count in counts.items():
            yield f"{name}:{count}|c{self._suffix}\n"

    def close(self) -> None:
        """Tells what there is. What is answered from now on is told to nobody."""
        self._closing.set()
        self._some.set()
        self._thread.join()
        self._socket.close()
