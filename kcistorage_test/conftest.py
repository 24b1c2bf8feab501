"""A real server in this process, on a free port, over a fresh folder."""

from __future__ import annotations

import dataclasses
import os
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

import kcistorage
from kcistorage_parts import tokens
from kcistorage_parts.logfmt import Log
from kcistorage_test.talk import Peer

SECRET = "a secret of thirty-two bytes, or more"
EMAIL = "lab@example.org"


@pytest.hookimpl(optionalhook=True)  # who has no xdist runs one test after the other
def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as processors: a test waits a third of its time. With more all would wait for the disk."""
    return min(8, (os.cpu_count() or 1) * 3 // 2)


class Running:
    """A server that serves in a thread of this process."""

    def __init__(self, config: kcistorage.Config, folder: Path, tls: Optional[ssl.SSLContext] = None) -> None:
        self.config, self.folder, self.tls = config, folder, tls
        self.log_path = folder / "log"
        self._log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        log = Log(self._log, verbose=True)
        self.server = kcistorage.build_server(config, ("127.0.0.1", 0), str(folder), tls, log)
        self.port: int = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def storage(self) -> Path:
        return Path(self.config.local.storage_path)

    def peer(self, seconds: float = 10.0) -> Peer:
        """A new connection; it fails a test that waits for longer than `seconds`."""
        return Peer(("127.0.0.1", self.port), seconds)

    def log(self) -> list[str]:
        return self.log_path.read_text().splitlines()

    def wait_for_log(self, text: str, seconds: float = 5.0) -> str:
        """The first log line that holds `text`: a line is written after its answer was sent."""
        deadline = time.monotonic() + seconds
        while True:
            found = next((line for line in self.log() if text in line), None)
            if found is not None:
                return found
            assert time.monotonic() < deadline, f"no line with {text!r} in the log:\n" + "\n".join(self.log())
            threading.Event().wait(0.005)

    def stop(self) -> None:
        assert self.server.stop(10), "connections were left open"
        self._thread.join(10)
        os.close(self._log)


def token(email: str = EMAIL, secret: str = SECRET, **claims: Any) -> str:
    """A token as the server mints it, or with any other claims."""
    if not claims:
        return tokens.mint(email, secret, time.time())
    import jwt

    return jwt.encode({"email": email, **claims}, secret, "HS256")


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers with the local driver: `start(limits=LimitOptions(...), users=(...), tls=...)`."""
    running: list[Running] = []

    def start_one(tls: Optional[ssl.SSLContext] = None, **changes: Any) -> Running:
        folder = tmp_path / f"server-{len(running)}"
        folder.mkdir()
        settings: dict[str, Any] = {
            "driver": "local",
            "jwt_secret": SECRET,
            "local": kcistorage.Local(str(folder / "storage")),
            **changes,
        }
        running.append(Running(dataclasses.replace(kcistorage.Config(), **settings), folder, tls))
        return running[-1]

    yield start_one
    for server in running:
        server.stop()


@pytest.fixture
def server(start: Start) -> Running:
    return start()
