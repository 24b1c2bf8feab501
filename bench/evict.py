#!/usr/bin/env python3
"""Downloads while the cache is cleared out (CH-3): a million cached files, an eviction pass, and who waits for it.

    memory     the pass, above the server without it                  <= 64 MiB
    latency    p99 of GETs during the pass, as a multiple of idle     <= 5

A server of its own process, a thread for each connection, answers GETs from a `Cache` of which it also runs the passes:
requests share with them what they share in kcistorage, the GIL and the disk. This process makes the files (of no bytes,
and a few real ones for the GETs), measures, and takes all away again. Everything runs over loopback.

With --url it measures the GETs of that URL instead, for --seconds, whatever that server is doing meanwhile. Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kcistorage_parts.cache import Cache  # noqa: E402, the path had to be set
from kcistorage_parts.eviction import Housekeeping, Limits  # noqa: E402

MIB = 1024 * 1024
HOT = 256  # real objects, which the GETs ask for in turn
HOT_SIZE = 4_096  # bytes
CHUNK = 10_000  # files made or removed in one go
THINK_SECONDS = 0.002  # between an answer and the next request of a connection


def say(text: str, end: str = "\n") -> None:
    """Progress, where somebody watches: the report alone goes to standard output."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end=end, file=sys.stderr, flush=True)


# ---- Files without a byte


def stems(folder: bytes, numbers: range) -> list[bytes]:
    names = [hashlib.sha512(b"%d" % number).hexdigest().encode() for number in numbers]
    return [folder + b"/" + name[:2] + b"/" + name for name in names]


def make(folder: bytes, numbers: range) -> int:
    for stem in stems(folder, numbers):
        os.mknod(stem + b".headers", stat.S_IFREG | 0o644)
        os.mknod(stem + b".content", stat.S_IFREG | 0o644)
    return len(numbers)


def remove(folder: bytes, numbers: range) -> int:
    for stem in stems(folder, numbers):
        for path in (stem + b".headers", stem + b".content"):
            try:
                os.unlink(path)
            except FileNotFoundError:  # evicted
                break
    return len(numbers)


def in_chunks(what: str, action: Callable[[bytes, range], int], folder: Path, count: int) -> None:
    done, started = 0, time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
        for future in as_completed([pool.submit(action, os.fsencode(folder), chunk) for chunk in chunks]):
            done += future.result()
            say(f"{what}: {done:,} of {count:,} files, {time.perf_counter() - started:.0f} s", end="")
    say(f"{what}: {count:,} files in {time.perf_counter() - started:.0f} s")


# ---- The server


class Reader(socketserver.BaseRequestHandler):
    """Answers GETs of cached objects, one after the other."""

    server: Server

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while head := self.request.recv(4_096):
            entry = self.server.cache.open(head.split(b" ", 2)[1].decode()[1:])
            if entry is None:
                self.request.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            try:
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % entry.size, socket.MSG_MORE)
                os.sendfile(self.request.fileno(), entry.descriptor, 0, entry.size)
            finally:
                os.close(entry.descriptor)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        super().__init__(("127.0.0.1", 0), Reader)


def status_mib(field: str) -> float:
    """VmRSS, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def measured(action: Callable[[], object]) -> dict[str, object]:
    """Of a pass: what it returned, seconds, and the memory that it took at most above what there was before."""
    before, started = status_mib("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): sets the peak back
    result = action()
    return {
        "result": str(result),
        "seconds": time.perf_counter() - started,
        "extra_mib": status_mib("VmHWM") - before,
    }


def serve(folder: str) -> None:
    """A line on standard input is a number of files to keep, and starts a pass; a line of JSON tells of it."""
    cache = Cache(folder)
    for number in range(HOT):
        with cache.create() as copy:
            copy.write(bytes(HOT_SIZE))
            copy.publish(f"hot/{number}", HOT_SIZE, '"hot"', 1_700_000_000, "application/octet-stream")
    housekeeping = Housekeeping(cache)
    with Server(cache) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        print(json.dumps(measured(housekeeping.recover)), flush=True)
        for line in sys.stdin:
            limits = Limits(max_files=int(line), low_free=0.0, high_free=0.0)
            print(json.dumps(measured(lambda limits=limits: housekeeping.tidy(limits))), flush=True)  # type: ignore[misc]
        server.shutdown()


# ---- The clients


class Client:
    """One kept connection; asks for the targets in turn."""

    def __init__(self, address: tuple[str, int], targets: Sequence[str]) -> None:
        self._host, self._targets = f"{address[0]}:{address[1]}", itertools.cycle(targets)
        self._socket = socket.create_connection(address, 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self) -> float:
        """Seconds from the request to the last byte of its answer."""
        request = f"GET {next(self._targets)} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode()
        started = time.perf_counter()
        self._socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._received()
        head, _, rest = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"answered {head[:200].decode(errors='replace')!r}")
        lines = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
        missing = int(lines[b"content-length"]) - len(rest)
        while missing > 0:
            missing -= len(self._received())
        return time.perf_counter() - started

    def _received(self) -> bytes:
        block = self._socket.recv(256 * 1024)
        if not block:
            raise RuntimeError("the server closed the connection")
        return block

    def get_until(self, end: threading.Event, seconds: array[float]) -> None:
        while not end.wait(THINK_SECONDS):
            seconds.append(self.get())


class Latency(NamedTuple):
    """Milliseconds."""

    requests: int
    p50: float
    p99: float
    most: float

    def __str__(self) -> str:
        return f"p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms, most {self.most:.1f} ms of {self.requests:,} GETs"


def latency_during(clients: Sequence[Client], action: Callable[[], object]) -> Latency:
    end = threading.Event()
    found = [array("d") for _ in clients]
    threads = [threading.Thread(target=client.get_until, args=(end, own)) for client, own in zip(clients, found)]
    for thread in threads:
        thread.start()
    try:
        action()
    finally:
        end.set()
        for thread in threads:
            thread.join()
    ordered = sorted(itertools.chain.from_iterable(found))
    if not ordered:
        raise RuntimeError("no GET was answered")
    last = len(ordered) - 1
    return Latency(len(ordered), *(1000 * ordered[last * share // 100] for share in (50, 99, 100)))


def measure_url(url: str, connections: int, seconds: float) -> bool:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise SystemExit(f"--url: {url!r} is no http:// URL")
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    clients = [Client((parts.hostname, parts.port or 80), [target or "/"]) for _ in range(connections)]
    print(latency_during(clients, lambda: time.sleep(seconds)))
    return True


# ---- The run


def shown(row: str, value: str, target: str, met: bool) -> bool:
    print(f"{row:10} {value:72} {target:8} {'met' if met else 'MISSED'}", flush=True)
    return met


def measure_pass(folder: Path, files: int, keep: int, connections: int, seconds: float) -> bool:
    command = [sys.executable, __file__, "--serve", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            targets = [f"/hot/{number}" for number in range(HOT)]
            clients = [Client(("127.0.0.1", port), targets) for _ in range(connections)]
            answers: list[dict[str, float]] = []
            recovering = latency_during(clients, lambda: answers.append(json.loads(server.stdout.readline())))  # type: ignore[union-attr]
            idle = latency_during(clients, lambda: time.sleep(seconds))

            def run_pass() -> None:
                print(keep, file=server.stdin, flush=True)
                answers.append(json.loads(server.stdout.readline()))  # type: ignore[union-attr]

            during = latency_during(clients, run_pass)
            run_pass()
        finally:
            server.stdin.close()
            server.terminate()
    start, evicted, steady = answers
    print(f"{files:,} files; {connections} connections, {HOT_SIZE} bytes a GET")
    print(f"idle       {idle}")
    print(f"start      {start['seconds']:.1f} s to count all, {start['extra_mib']:.1f} MiB; {recovering}")
    print(f"pass       {evicted['seconds']:.1f} s: {evicted['result']}")
    print(f"           {during}")
    print(f"steady     {steady['seconds'] * 1000:.2f} ms: {steady['result']}")
    ratio = during.p99 / idle.p99
    return all(
        [
            shown(
                "memory",
                f"{evicted['extra_mib']:.1f} MiB above the server without the pass",
                "<= 64",
                evicted["extra_mib"] <= 64,
            ),
            shown("latency", f"{ratio:.1f} x the idle p99", "<= 5", ratio <= 5),
        ]
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Downloads while the cache is cleared out.")
    parser.add_argument("--files", type=int, default=1_000_000, metavar="N", help="cached files; default %(default)s")
    parser.add_argument("--delete", type=float, default=0.1, metavar="SHARE", help="of them, by the pass; default 0.1")
    parser.add_argument("--connections", type=int, default=4, metavar="N", help="that send GETs; default %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="of the idle time; default %(default)s"
    )
    parser.add_argument("--folder", metavar="DIR", help="where the temporary folder is made; default %(default)s")
    parser.add_argument("--url", help="measure GETs of this URL and nothing else")
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """0 when both targets are met, else 1."""
    options = parse_arguments()
    if options.serve:
        serve(options.serve)
        return 0
    if options.url:
        return 0 if measure_url(options.url, options.connections, options.seconds) else 1
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # ends the server and removes the folder as well
    with tempfile.TemporaryDirectory(prefix="kcistorage-evict-", dir=options.folder) as name:
        folder = Path(name) / "cache"
        for shard in range(256):
            (folder / f"{shard:02x}").mkdir(parents=True)
        try:
            in_chunks("make", make, folder, options.files)
            keep = int(options.files * (1 - options.delete))
            met = measure_pass(folder, options.files, keep, options.connections, options.seconds)
        finally:
            in_chunks("remove", remove, folder, options.files)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
