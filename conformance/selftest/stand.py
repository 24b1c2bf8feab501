"""The stand: servers of the self-test, started and stopped.

As a program it is the lever `restart`: `python -m conformance.selftest.stand serve PROTOCOL FAULT PORT FOLDER` and
`restart PROTOCOL FAULT PORT FOLDER` (kill -9, start again, wait until it answers).
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from conformance.core.plugin import Options
from conformance.selftest.house import House
from conformance.selftest.houses import HOUSES
from conformance.selftest.web.server import WebServer

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def standing(house: House, kind: type[WebServer], **changes: Any) -> Iterator[Options]:
    """A server in threads of this process; gives what the suite is told of it, with those changes."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as where:
        server = house.made(kind, Path(where), False)
        port = server.start()
        try:
            yield replace(house.told(port, Path(where)), **changes)
        finally:
            server.stop()


# ------------------------------------------------------------------------------------------- a process of its own


def serve(protocol: str, name: str, port: int, folder: Path) -> None:
    """Serves until it is killed."""
    house = HOUSES[protocol]
    kind = house.reference if name == "reference" else house.faults[name].server
    house.made(kind, folder, True).start(port)
    (folder / "pid").write_text(str(os.getpid()))
    threading.Event().wait()


def _pid(folder: Path) -> Optional[int]:
    """Of the server that listens, None before there was one."""
    text = (folder / "pid").read_text() if (folder / "pid").exists() else ""
    return int(text) if text else None


def start(protocol: str, name: str, port: int, folder: Path) -> None:
    """Starts the server in a process of its own and waits until it listens. Raises RuntimeError when it does not."""
    command = [sys.executable, "-m", "conformance.selftest.stand", "serve", protocol, name, str(port), str(folder)]
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    until = time.monotonic() + 30
    while _pid(folder) != server.pid:  # that something answers proves little: the one before may not be gone
        if server.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{name} does not listen on {port}: {(folder / 'log').read_text()[-500:]}")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True  # a reset or silence: its backlog is being torn down
    return True


def kill(port: int, folder: Path) -> None:
    """kill -9, and waits until nobody listens: the last thread to die, not the first, lets go of the socket."""
    pid = _pid(folder)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while _listens(port):
        time.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def process(house: House, name: str, **changes: Any) -> Iterator[Options]:
    """A server in a process of its own, with the lever `restart`."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as where:
        folder, port = Path(where), free_port()
        start(house.name, name, port, folder)
        words = [sys.executable, "-m", "conformance.selftest.stand", "restart", house.name, name, str(port), where]
        lever = f"cd {shlex.quote(str(ROOT))} && {shlex.join(words)}"
        try:
            yield replace(house.told(port, folder), levers={"restart": lever}, **changes)
        finally:
            kill(port, folder)


@contextmanager
def of_fault(house: House, name: Optional[str]) -> Iterator[Options]:
    """The server of a fault; None: the reference."""
    known = None if name is None else house.faults[name]
    if name is not None and known is not None and known.restarts:
        with process(house, name) as told:
            yield told
    else:
        with standing(house, house.reference if known is None else known.server) as told:
            yield told


def main() -> None:
    verb, protocol, name, port, folder = sys.argv[1:]
    if verb == "restart":
        kill(int(port), Path(folder))
        start(protocol, name, int(port), Path(folder))
    else:
        serve(protocol, name, int(port), Path(folder))


if __name__ == "__main__":
    main()
