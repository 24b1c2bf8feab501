#!/usr/bin/env python3
"""stor beside nginx, kcistorage, sha256sum and dd: everything in one run, on this machine, over loopback.

    small      4 KiB object, 16 kept connections (wrk)   >= 0.4 x nginx, >= 0.8 x kcistorage, which stats one file
    download   1 GiB object, one connection              >= 0.9 x nginx, >= 0.9 x kcistorage
    post       256 MiB to a pair, both copies durable    <= 1.3 x sha256sum and two copies with fsync, one by one
    memory     during a post of 1 GiB                    <= 32 MiB above idle
    statsd     small and post once more, with statsd     >= 0.95 x, <= 1.05 x without

All three servers serve the very same .dat file, and the tools read the very same source. How rounds are measured and
compared is as in bench.py; small and download are the rows of the same names there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import (
    BLOCK,
    MIB,
    ROOT,
    Measure,
    Missing,
    Result,
    Rows,
    Server,
    Sizes,
    Workplace,
    alternate,
    connect,
    download,
    fill,
    free_port,
    kcistorage,
    measure,
    nginx,
    parser_for,
    peak_mib,
    requests_per_second,
    require_space,
    running,
    say,
    status_mib,
)

FULL = Sizes(rounds=5, wrk_seconds=5, download=1024 * MIB, upload=256 * MIB, trees=0, memory=1024 * MIB, starts=0)
QUICK = Sizes(rounds=3, wrk_seconds=1, download=64 * MIB, upload=32 * MIB, trees=0, memory=128 * MIB, starts=0)
SMALL = 4096
PAIR = ("a", "b")  # folders below the document root
USER = "d3JpdGVyOndyaXRlcl9wYXNz"  # writer:writer_pass


# ---- Objects and servers


class Object(NamedTuple):
    """An object on both storages."""

    sha: str
    size: int  # bytes
    path: str  # of its first copy, below the document root


def sha256_of(path: Path) -> str:
    sum_of = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            sum_of.update(block)
    return sum_of.hexdigest()


def put(work: Workplace, size: int) -> Object:
    """Makes an object, as a Stor that ran here before has left it."""
    source = fill(work.folder / "source.bin", size)
    sha = sha256_of(source)
    name = sha.upper()
    below = f"{name[:2]}/{name[2:4]}/{name[4:6]}/{name}.dat"
    for storage in PAIR:
        path = work.objects / storage / below
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    source.unlink()
    return Object(sha, size, f"{PAIR[0]}/{below}")


@contextlib.contextmanager
def receiver() -> Iterator[int]:
    """A port where statsd lines come to. Nobody reads them: what is too much is lost, as it should be."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        yield port


@contextlib.contextmanager
def stor(work: Workplace, statsd_port: int = 0) -> Iterator[Server]:
    port, name = free_port(), f"stor-{secrets.token_hex(4)}"
    config = work.folder / f"{name}.json"
    pair = [str(work.objects / storage) for storage in PAIR]
    for storage in pair:
        Path(storage).mkdir(exist_ok=True)
    keys = {"storage_pairs": [pair], "require_mounts": False, "basic_auth": "writer:writer_pass"}
    statsite = {"statsite": {"host": "127.0.0.1", "port": statsd_port, "prefix": "bench"}} if statsd_port else {}
    config.write_text(json.dumps({**keys, **statsite}))
    environment = {"CONFIG_FILE": str(config), "KCI_STORAGE_HOST": "127.0.0.1", "KCI_STORAGE_PORT": str(port)}
    with running([sys.executable, str(ROOT / "stor.py")], port, work.folder / f"{name}.log", **environment) as server:
        yield server


# ---- Posts, and what they are compared with


def post(port: int, source: Path, sha: str) -> float:
    """Seconds from the connection to the 201 that says both copies are stored."""
    head = (
        f"POST /{sha} HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic {USER}\r\nConnection: close\r\n"
        f"Content-Length: {source.stat().st_size}\r\n\r\n"
    ).encode()
    started = time.perf_counter()
    with connect(port) as connection, source.open("rb") as file:
        connection.sendall(head)
        connection.sendfile(file)
        if not connection.recv(64 * 1024).startswith(b"HTTP/1.1 201 "):
            raise RuntimeError("the post was refused")
    return time.perf_counter() - started


def removed(work: Workplace, sha: str) -> None:
    """So that the next post is one of something new."""
    for storage in PAIR:
        for path in (work.objects / storage).glob(f"??/??/??/{sha.upper()}.dat"):
            path.unlink()


def posted(work: Workplace, port: int, source: Path, sha: str) -> float:
    seconds = post(port, source, sha)
    removed(work, sha)
    return seconds


def timed(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def copied(work: Workplace, source: Path) -> float:
    """Two copies, one after the other, each on the disk before the next one begins."""
    copies = [work.objects / storage / "copy.bin" for storage in PAIR]
    seconds = sum(timed("dd", f"if={source}", f"of={copy}", "bs=1M", "conv=fsync") for copy in copies)
    for copy in copies:
        copy.unlink()
    return seconds


# ---- Rows


def ratio(row: str, medians: Mapping[str, float], names: tuple[str, str], rule: tuple[str, float], unit: str) -> Result:
    """The first of two names, as a multiple of the second."""
    (ours, theirs), (relation, target) = names, rule
    digits = 2 if unit == "s" else 0
    measured = ", ".join(f"{name} {medians[name]:,.{digits}f} {unit}" for name in names)
    return Result(row, measured, medians[ours] / medians[theirs], relation, target, f"x {theirs}")


Get = Callable[[int, str], float]  # from a port, of a target


def beside(
    work: Workplace, row: str, thing: Object, get: Get, unit: str, least: Mapping[str, float]
) -> Iterator[Result]:
    """One object from three servers; without nginx, from two. `least` is what stor should reach of the others."""
    measures: dict[str, Measure] = {}
    with contextlib.ExitStack() as stack:
        measures["stor"] = partial(get, stack.enter_context(stor(work)).port, f"/{thing.sha}")
        measures["kcistorage"] = partial(get, stack.enter_context(kcistorage(work)).port, f"/{thing.path}")
        try:
            measures["nginx"] = partial(get, stack.enter_context(nginx(work)).port, f"/{thing.path}")
        except Missing as missing:
            print(f"{row:10} nginx left out: {missing}")
        measures["stor"]()  # the first read of an object hashes it, copy by copy
        medians = alternate(row, work.sizes.rounds, measures, unit)
    for name, target in least.items():
        if name in medians:
            yield ratio(row, medians, ("stor", name), (">=", target), unit)


def small(work: Workplace) -> Iterator[Result]:
    def get(port: int, target: str) -> float:
        return requests_per_second(port, target, work.sizes.wrk_seconds)

    yield from beside(work, "small", put(work, SMALL), get, "/s", {"nginx": 0.4, "kcistorage": 0.8})


def large(work: Workplace) -> Iterator[Result]:
    size = work.sizes.download
    require_space(work.folder, 3 * size)
    thing = put(work, size)

    def get(port: int, target: str) -> float:
        return size / MIB / download(port, target, size)

    yield from beside(work, "download", thing, get, "MiB/s", {"nginx": 0.9, "kcistorage": 0.9})
    removed(work, thing.sha)


def posts(work: Workplace) -> Iterator[Result]:
    require_space(work.folder, 5 * work.sizes.upload)
    source = fill(work.folder / "source.bin", work.sizes.upload)
    sha = sha256_of(source)
    with stor(work) as server:
        measures: dict[str, Measure] = {
            "stor": partial(posted, work, server.port, source, sha),
            "sha256sum": partial(timed, "sha256sum", str(source)),
            "two copies": partial(copied, work, source),
        }
        medians = alternate("post", work.sizes.rounds, measures, "s")
    source.unlink()
    both = [medians["sha256sum"], medians["two copies"]]
    say(f"post: {medians['stor'] / max(both):.2f} x the longer of the two")
    yield ratio("post", {**medians, "their sum": sum(both)}, ("stor", "their sum"), ("<=", 1.3), "s")


def memory(work: Workplace) -> Iterator[Result]:
    if not Path("/proc/self/clear_refs").exists():
        raise Missing("/proc of Linux is needed")
    size = work.sizes.memory
    require_space(work.folder, 4 * size)
    source = fill(work.folder / "source.bin", size)
    sha = sha256_of(source)
    with stor(work) as server:
        idle = status_mib(server.pid, "VmRSS")
        peak = peak_mib(server.pid, lambda: posted(work, server.port, source, sha))
    source.unlink()
    yield Result("memory", f"above idle while {size / MIB:,.0f} MiB come in", peak - idle, "<=", 32, "MiB")


def statsd(work: Workplace) -> Iterator[Result]:
    thing = put(work, SMALL)
    source = fill(work.folder / "source.bin", work.sizes.upload)
    sha = sha256_of(source)
    with receiver() as told, stor(work) as without, stor(work, told) as telling:
        ports = {"telling": telling.port, "without": without.port}
        gets: dict[str, Measure] = {
            name: partial(requests_per_second, port, f"/{thing.sha}", work.sizes.wrk_seconds)
            for name, port in ports.items()
        }
        many = alternate("statsd", work.sizes.rounds, gets, "/s")
        stores: dict[str, Measure] = {name: partial(posted, work, port, source, sha) for name, port in ports.items()}
        each = alternate("statsd", work.sizes.rounds, stores, "s")
    source.unlink()
    yield ratio("statsd", many, ("telling", "without"), (">=", 0.95), "/s")
    yield ratio("statsd", each, ("telling", "without"), ("<=", 1.05), "s")


ROWS: Rows = {
    "small": small,
    "download": large,
    "post": posts,
    "memory": memory,
    "statsd": statsd,
}


# ---- Command line


def main() -> int:
    options = parser_for("stor beside nginx, kcistorage, sha256sum and dd.", ROWS).parse_args()
    return measure(options, QUICK if options.quick else FULL, ROWS)


if __name__ == "__main__":
    sys.exit(main())
