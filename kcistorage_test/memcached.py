"""A real memcached for tests, Debian's package: started on a free port of loopback, stopped, killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

from kcistorage_test.parts_at_hand import needs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Memcached:
    """One with a megabyte or so; `start` it, and again after `kill`: then it knows nothing any more."""

    def __init__(self) -> None:
        self._program = needs("memcached")
        self.port = free_port()
        self.start()

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        root = ["-u", "nobody"] if os.geteuid() == 0 else []  # which it refuses to be
        options = ["-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", "8", "-t", "1"]
        self.process = subprocess.Popen([self._program, *options, *root], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self.process.poll() is None, "memcached does not start"
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask(b"version\r\n").startswith(b"VERSION")
        return False

    def ask(self, command: bytes) -> bytes:
        """An answer of one packet to a command of its text protocol."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command)
            return connection.recv(65_536)

    def get(self, key: str) -> bytes:
        """A value, b"" where there is none."""
        head, _, rest = self.ask(f"get {key}\r\n".encode()).partition(b"\r\n")
        return rest.partition(b"\r\nEND")[0] if head.startswith(b"VALUE") else b""

    def set(self, key: str, value: bytes) -> None:
        assert self.ask(b"set %b 0 0 %d\r\n%b\r\n" % (key.encode(), len(value), value)) == b"STORED\r\n"

    def freeze(self) -> None:
        """It still accepts connections, as far as the kernel does that, and never answers."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running() -> Iterator[Memcached]:
    """A fresh one, gone at the end of the block. Skips a test where the program is missing."""
    server = Memcached()
    try:
        yield server
    finally:
        server.kill()
