"""Counters and timings by UDP, in the lines of statsd, for statsite and its like (SO-10).

    <prefix>.<method>.<status>:1|c|@0.1       a request was answered
    <prefix>.<method>.time:12.3|ms|@0.1       and took so many milliseconds

Of `sample_rate` 0.1 a tenth of the requests is told, each with both lines in one datagram. Nobody waits for anything:
what the network does not take is lost. Any thread may call.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket

UNSAFE = re.compile("[^a-z0-9]")


class Statsd:
    """One receiver."""

    def __init__(self, host: str, port: int, prefix: str, sample_rate: float) -> None:
        """Looks up the host; raises OSError."""
        self._prefix, self._rate = f"{prefix}." if prefix else "", sample_rate
        self._suffix = "" if sample_rate >= 1 else f"|@{sample_rate:g}"
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        self._socket.connect(address)

    def answered(self, method: str, status: int, seconds: float) -> None:
        """A request came to its end."""
        if self._rate < 1 and random.random() >= self._rate:
            return
        name = f"{self._prefix}{UNSAFE.sub('_', method.lower()[:16])}"
        lines = f"{name}.{status}:1|c{self._suffix}\n{name}.time:{seconds * 1000:.3f}|ms{self._suffix}\n"
        with contextlib.suppress(OSError):  # nobody listens there, or there is no room to keep it: it is gone
            self._socket.send(lines.encode())

    def close(self) -> None:
        self._socket.close()
