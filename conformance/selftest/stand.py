"""The stand: servers of the self-test, started and stopped, and what the suite is told of them.

As a program it is the lever `restart`: `python -m conformance.selftest.stand serve FAULT PORT FOLDER` and
`restart FAULT PORT FOLDER` (kill -9, start again, wait until it answers).
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
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from conformance.core.plugin import Options
from conformance.core.wire import Target
from conformance.kernelci import tokens
from conformance.selftest import fault
from conformance.selftest.reference import Reference, Settings

ROOT = Path(__file__).parent.parent.parent
LIMITED, WRITER = "limited@example.org", "writer@example.org"

# Short, so that what takes half a minute elsewhere takes a second here; the suite is told, as an implementer would.
TIMINGS = {"lock_wait": 1.5, "idle": 2.0}
LIMITS = {"upload": 4 << 30, "member": 1 << 20, "files": 1000}
HOUSE = Settings(
    users={LIMITED: ["/allowed"]},
    lock_wait=TIMINGS["lock_wait"],
    idle=TIMINGS["idle"],
    member_limit=LIMITS["member"],
    files_limit=LIMITS["files"],
)


def options(port: int, **changes: Any) -> Options:
    """What the suite is told of a server of the stand."""
    told = Options(
        target=Target("http", "127.0.0.1", port),
        secrets={
            "token": tokens.mint(HOUSE.secret, {"email": WRITER}),
            "limited": tokens.mint(HOUSE.secret, {"email": LIMITED}),
            "secret": HOUSE.secret,
        },
        inputs={"limited_prefix": "allowed", "blocked_address": "192.0.2.7", "challenge_agent": "challenged-browser"},
        profile="full",
        namespace=f"selftest-{uuid.uuid4().hex[:8]}",
        timings=TIMINGS,
        limits=LIMITS,
        seed=1,
        examples=40,
        retry=False,
    )
    return replace(told, **changes)


@contextmanager
def standing(kind: type[Reference], settings: Settings = HOUSE, **changes: Any) -> Iterator[Options]:
    """A server in threads of this process."""
    server = kind(settings)
    port = server.start()
    try:
        yield options(port, **changes)
    finally:
        server.stop()


# ------------------------------------------------------------------------------------------- a process of its own


def _kind(name: str) -> type[Reference]:
    return Reference if name == "reference" else fault.faults()[name].server


def serve(name: str, port: int, folder: Path) -> None:
    """Serves until it is killed."""
    server = _kind(name)(replace(HOUSE, journal=str(folder / "journal")))
    server.start(port)
    (folder / "pid").write_text(str(os.getpid()))
    threading.Event().wait()


def start(name: str, port: int, folder: Path) -> None:
    """Starts the server in a process of its own and waits until it answers."""
    command = [sys.executable, "-m", "conformance.selftest.stand", "serve", name, str(port), str(folder)]
    with (folder / "log").open("ab") as log:
        subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def _alive(pid: int) -> bool:
    with suppress(ChildProcessError):  # it may be a child of another process of the stand
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
    except ProcessLookupError:
        return False


def kill(folder: Path) -> None:
    """kill -9, and waits until it is gone."""
    pid = int((folder / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    while _alive(pid):
        time.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def process(name: str, **changes: Any) -> Iterator[Options]:
    """A server in a process of its own, with the lever `restart`."""
    with tempfile.TemporaryDirectory() as where:
        folder, port = Path(where), free_port()
        start(name, port, folder)
        words = [sys.executable, "-m", "conformance.selftest.stand", "restart", name, str(port), where]
        lever = f"cd {shlex.quote(str(ROOT))} && {shlex.join(words)}"
        try:
            yield options(port, levers={"restart": lever}, **changes)
        finally:
            kill(folder)


@contextmanager
def of_fault(name: Optional[str]) -> Iterator[Options]:
    """The server of a fault, or the reference it is compared with, in the same way of standing."""
    known = fault.faults()
    if name is not None and known[name].restarts:
        with process(name) as told:
            yield told
    else:
        with standing(Reference if name is None else known[name].server) as told:
            yield told


def main() -> None:
    verb, name, port, folder = sys.argv[1:]
    if verb == "restart":
        kill(Path(folder))
        start(name, int(port), Path(folder))
    else:
        serve(name, int(port), Path(folder))


if __name__ == "__main__":
    main()
