#!/usr/bin/env python3
"""A cloud with kcistorage in front of it, beside the same cloud alone: Azurite, or SeaweedFS for S3, in one run.

    cold     an object that is not in the cache, for 1 and 16 clients: first byte     <= 1.5 x direct, of any size
             and the last one; 64 KiB from the middle of one
    warm     the same object from the cache
    upload   256 MiB: through as one form; direct by azure-storage-blob's upload_blob, or obstore's put
    many     500 objects of 20 KiB, one by one and 64 at a time, from kept connections; direct as above
    archive  1,000 device trees of 20 KiB as .tar.xz: not beside the     <= 1/8 of the time
             cloud alone, but beside their uploads one by one

Direct downloads go to the emulator's own port, with a signature in the URL. Both of a pair are asked by one client,
over a fresh connection for each download. Their rounds alternate, and medians are compared: of a round with several
clients the first byte is the median one, and the total is the last one's. Before each cold round the files of the cache
are deleted; the server goes on, as one in service does. All bytes are compared once the clock stands still. Emulator
and server, each a process, and all their files are gone at the end. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple, Optional

import pytest

from bench import (
    FORM_END,
    MIB,
    ROOT,
    TREE_SIZE,
    Missing,
    Server,
    connect,
    device_trees,
    form_start,
    free_port,
    packed,
    parser_for,
    require_space,
    running,
    upload_archive,
    written,
)

sys.path.insert(0, str(ROOT))

from kcistorage_test import azurite, seaweed

KIB = 1024
CROWD = 16  # clients that want one cold object
WORKERS = 64  # uploads at a time
FIRST_BYTE = 1.5  # at most so many times the back end's own
AS_ARCHIVE = 8  # at least so many times as fast as one by one


class Sizes(NamedTuple):
    large: int  # bytes
    medium: int
    uploads: int
    trees: int  # in an archive
    rounds: int
    short_rounds: int  # of what takes milliseconds
    row_seconds: float  # after which a row begins no further round


FULL = Sizes(large=256 * MIB, medium=4 * MIB, uploads=500, trees=1000, rounds=5, short_rounds=100, row_seconds=12)
QUICK = Sizes(large=16 * MIB, medium=1 * MIB, uploads=50, trees=100, rounds=2, short_rounds=5, row_seconds=5)
SMALL = 4 * KIB
SLICE = 64 * KIB  # a range from the middle of a large object
LOG_SIZE = 20 * KIB  # of each of many uploads


def say(text: str) -> None:
    """Progress, where somebody watches: the report alone goes to standard output."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


class Result(NamedTuple):
    """One line of the report. Most have no target: what a cloud takes is its own affair."""

    row: str
    measured: str
    direct: float  # seconds, as the next one
    through: float
    target: Optional[float] = None

    @property
    def ratio(self) -> float:
        return self.through / self.direct

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio <= self.target

    def __str__(self) -> str:
        verdict = "" if self.target is None else f"   <= {self.target:g} {'met' if self.met else 'MISSED'}"
        times = f"{self.direct * 1000:10,.1f} ms {self.through * 1000:10,.1f} ms"
        return f"{self.row:7} {self.measured:34} {times} {self.ratio:7.2f}{verdict}"


# ---- The cloud alone, and through kcistorage


class Cloud(NamedTuple):
    """An emulator with an empty container."""

    name: str
    port: int
    target: Callable[[str], str]  # of a key, for a GET
    put: Callable[[str, Any], object]  # a key and its bytes, or a file of them
    config: Mapping[str, object]  # for kcistorage


@contextlib.contextmanager
def tool() -> Iterator[None]:
    """What a test would be skipped for, a row is left out for."""
    try:
        yield
    except (pytest.skip.Exception, pytest.fail.Exception) as absent:
        raise Missing(str(absent)) from None


@contextlib.contextmanager
def azure_cloud(folder: Path) -> Iterator[Cloud]:
    with tool():
        azurite.executable()
    try:
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas
    except ImportError:
        raise Missing("azure-storage-blob is not installed") from None

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its pool is smaller than our crowd, and says so
    emulator = azurite.Azurite(folder)
    try:
        container = azurite.new_container(emulator.url)
        client = azurite.client(emulator.url, container)
        rights, until = ContainerSasPermissions(read=True), "2099-01-01T00:00:00Z"
        signed = generate_container_sas(azurite.ACCOUNT, container, azurite.KEY, permission=rights, expiry=until)
        port = int(emulator.url.split(":")[2].partition("/")[0])
        config = {"endpoint": emulator.url, "account": azurite.ACCOUNT, "key": azurite.KEY, "container": container}
        path = f"/{azurite.ACCOUNT}/{container}"
        yield Cloud("Azurite", port, lambda key: f"{path}/{key}?{signed}", client.upload_blob, config)
    finally:
        emulator.kill()


@contextlib.contextmanager
def s3_cloud(folder: Path) -> Iterator[Cloud]:
    with tool():
        seaweed.weed()
    try:
        import obstore
        from obstore.store import S3Store
    except ImportError:
        raise Missing("obstore is not installed") from None
    emulator = seaweed.Seaweed(folder)
    try:
        emulator.start()
        store = S3Store(
            seaweed.BUCKET,
            endpoint=f"http://{emulator.endpoint}",
            access_key_id=seaweed.ACCESS_KEY,
            secret_access_key=seaweed.SECRET_KEY,
            region=seaweed.REGION,
            client_options={"allow_http": True},
        )
        keys = {"access_key": seaweed.ACCESS_KEY, "secret_key": seaweed.SECRET_KEY, "region": seaweed.REGION}
        config = {"endpoint": emulator.endpoint, "bucket": seaweed.BUCKET, "secure": False, **keys}
        port, hour = int(emulator.endpoint.rpartition(":")[2]), timedelta(hours=1)

        def target(key: str) -> str:
            return obstore.sign(store, "GET", key, hour).partition(emulator.endpoint)[2]

        yield Cloud("SeaweedFS", port, target, partial(obstore.put, store), config)
    finally:
        emulator.kill()


CLOUDS: Mapping[str, Callable[[Path], contextlib.AbstractContextManager[Cloud]]] = {
    "azure": azure_cloud,
    "s3": s3_cloud,
}


def config_text(backend: str, cloud: Cloud) -> str:
    values = "".join(f"{key} = {json.dumps(value)}\n" for key, value in cloud.config.items())  # JSON's are TOML's
    return f'driver = "{backend}"\njwt_secret = "{secrets.token_hex(32)}"\n[{backend}]\n{values}'


def command(config: Path, *options: str) -> list[str]:
    return [sys.executable, str(ROOT / "kcistorage.py"), "--config-file", str(config), *options]


def kcistorage(folder: Path, config: Path) -> contextlib.AbstractContextManager[Server]:
    port = free_port()
    environment = {"KCI_STORAGE_HOST": "127.0.0.1", "KCI_STORAGE_PORT": str(port)}
    return running(command(config, "--files-directory", str(folder)), port, folder / "log", **environment)


def mint(config: Path) -> str:
    minted = subprocess.run(
        command(config, "--generate-jwt-token", "bench"), stdout=subprocess.PIPE, text=True, check=True
    )
    return minted.stdout.strip()


Place = tuple[int, str]  # a port, and the target of a request


class Bench(NamedTuple):
    sizes: Sizes
    folder: Path
    cloud: Cloud
    port: int  # of kcistorage
    token: str
    buffer: bytearray  # what the first client of a round gets
    keys: Iterator[int]  # a new number for each name

    def new_key(self) -> str:
        return f"bench/{next(self.keys):05}"

    def direct(self, key: str) -> Place:
        return self.cloud.port, self.cloud.target(key)

    def through(self, key: str) -> Place:
        return self.port, f"/{key}"

    def empty_cache(self) -> None:
        """Once nothing is on its way into it any more: a fill may end a moment after its last reader."""
        cache, deadline = self.folder / "files" / "cache", time.monotonic() + 60
        while any((cache / "uploads").iterdir()):
            if time.monotonic() > deadline:
                raise RuntimeError("a copy that nobody waits for does not come to an end")
            time.sleep(0.002)
        for path in sorted(cache.glob("??/*")):  # .content before .headers
            path.unlink()


# ---- Clients: sockets, so that no library's time is measured


class Download(NamedTuple):
    """Seconds from before the connection to the first and to the last byte of the content."""

    first: float
    total: float


def answered(connection: socket.socket, status: int) -> tuple[bytes, bytes]:
    """The head of an answer, and what came along with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        block = connection.recv(64 * KIB)
        if not block:
            break
        received += block
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head.startswith(f"HTTP/1.1 {status} ".encode()):
        raise RuntimeError(f"answered {received[:300].decode(errors='replace')!r}")
    return head, rest


def download(place: Place, at: Optional[int], size: int, into: memoryview, started: float) -> Download:
    """Gets an object, or of its bytes those from `at` on. Where `into` is smaller, it is written over."""
    port, target = place
    wanted = "" if at is None else f"Range: bytes={at}-{at + size - 1}\r\n"
    with connect(port) as connection:
        fields = f"Host: 127.0.0.1:{port}\r\n{wanted}Connection: close\r\n"  # S3 signs the host
        connection.sendall(f"GET {target} HTTP/1.1\r\n{fields}\r\n".encode())
        head, content = answered(connection, 206 if wanted else 200)
        if f"\r\ncontent-length: {size}\r\n" not in f"{head.decode().lower()}\r\n":
            raise RuntimeError(f"{size} bytes were to come, and not {head.decode()!r}")
        count = len(content) or connection.recv_into(into)
        first = time.perf_counter() - started
        into[: len(content)] = content
        while count < size:
            received = connection.recv_into(into[count if count < len(into) else 0 :])
            if not received:
                raise RuntimeError(f"{count} of {size} bytes came")
            count += received
    return Download(first, time.perf_counter() - started)


def crowd(bench: Bench, place: Place, content: bytes, clients: int, at: Optional[int] = None) -> Download:
    """Several downloads at once. What comes is compared for the first client, counted for the others."""
    barrier, size = Barrier(clients), len(content)

    def one(number: int) -> Download:
        into = memoryview(bench.buffer)[:size] if number == 0 else memoryview(bytearray(min(MIB, size)))
        barrier.wait()
        return download(place, at, size, into, time.perf_counter())

    with ThreadPoolExecutor(clients) as pool:
        downloads = list(pool.map(one, range(clients)))
    if memoryview(bench.buffer)[:size] != content:
        raise RuntimeError(f"other bytes than were stored came from {place[1].partition('?')[0]}")
    return Download(statistics.median(each.first for each in downloads), max(each.total for each in downloads))


def post(connection: socket.socket, token: str, key: str, content: bytes) -> None:
    path, _, name = key.rpartition("/")
    pieces = [form_start("/upload", token, path, "file0", name, len(content)), content, FORM_END]
    for piece in [b"".join(pieces)] if len(content) < MIB else pieces:  # a small request leaves at once
        connection.sendall(piece)
    answered(connection, 200)  # which has no body


Put = Callable[[str, bytes], object]
Opened = Callable[[], contextlib.AbstractContextManager[Put]]  # a connection, or what stands in for it


@contextlib.contextmanager
def posting(bench: Bench) -> Iterator[Put]:
    with connect(bench.port) as connection:
        yield partial(post, connection, bench.token)


# ---- Rows

Measure = Callable[[], Sequence[float]]  # seconds


def alternate(row: str, rounds: int, seconds: float, pair: tuple[Measure, Measure]) -> list[tuple[float, float]]:
    """Medians of what was measured direct and through, in turn, so that the machine's mood meets both alike."""
    values: tuple[list[Sequence[float]], list[Sequence[float]]] = ([], [])
    deadline = time.monotonic() + seconds
    for number in range(1, rounds + 1):
        say(f"{row}: round {number} of {rounds}")
        for each, measure in zip(values, pair):
            if rounds <= FULL.rounds:
                os.sync()  # what one round left to be written is not the next one's to pay
            each.append(measure())
        if time.monotonic() > deadline:
            break
    say("")
    direct, through = ([statistics.median(column) for column in zip(*each)] for each in values)
    return list(zip(direct, through))


def shown(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def stored(bench: Bench, size: int) -> tuple[str, bytes]:
    """A new object in the cloud, and nowhere else. No two blocks of it are alike."""
    key = bench.new_key()
    content = b"".join(secrets.token_bytes(min(MIB, size)) for _ in range(0, size, MIB))
    say(f"storing {shown(size)}")
    bench.cloud.put(key, content)
    return key, content


def cold_pair(
    bench: Bench, key: str, content: bytes, clients: int, at: Optional[int] = None
) -> tuple[Measure, Measure]:
    def cleared(place: Place) -> Download:
        bench.empty_cache()  # also where that changes nothing: whoever is asked has had a rest before
        return crowd(bench, place, content, clients, at)

    return partial(cleared, bench.direct(key)), partial(cleared, bench.through(key))


def cold(bench: Bench) -> Iterator[Result]:
    sizes = bench.sizes
    for size, rounds, crowds in (
        (SMALL, sizes.short_rounds, (1, CROWD)),
        (sizes.medium, sizes.short_rounds, (1,)),
        (sizes.large, sizes.rounds, (1, CROWD)),
    ):
        key, content = stored(bench, size)
        for clients in crowds:
            what = f"{shown(size)}, {clients} client{'s' * (clients > 1)}"
            first, total = alternate(f"cold {what}", rounds, sizes.row_seconds, cold_pair(bench, key, content, clients))
            yield Result("cold", f"{what}: first byte", *first, FIRST_BYTE)
            yield Result("cold", f"{what}: total", *total)
    middle = sizes.large // 2
    what = f"{shown(SLICE)} from the middle"
    pair = cold_pair(bench, key, content[middle : middle + SLICE], 1, middle)
    first, _ = alternate(f"cold {what}", sizes.rounds, sizes.row_seconds, pair)
    yield Result("cold", f"{what}: first byte", *first)


def warm(bench: Bench) -> Iterator[Result]:
    sizes = bench.sizes
    for size, rounds in ((SMALL, sizes.short_rounds), (sizes.large, sizes.rounds)):
        key, content = stored(bench, size)
        pair = (
            partial(crowd, bench, bench.direct(key), content, 1),
            partial(crowd, bench, bench.through(key), content, 1),
        )
        pair[1]()
        _, total = alternate(f"warm {shown(size)}", rounds, sizes.row_seconds, pair)
        yield Result("warm", f"{shown(size)}, 1 client: total", *total)


def check_stored(bench: Bench, contents: Mapping[str, bytes]) -> None:
    """That the cloud has what it was given, past kcistorage."""
    for key, content in contents.items():
        crowd(bench, bench.direct(key), content, 1)


def many_uploads(opened: Opened, contents: Mapping[str, bytes], workers: int) -> float:
    left = deque(contents.items())

    def taken() -> Iterator[tuple[str, bytes]]:
        with contextlib.suppress(IndexError):
            while True:
                yield left.popleft()

    def work(_: int) -> None:
        with opened() as put:
            for key, content in taken():
                put(key, content)

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    return time.perf_counter() - started


def uploads(bench: Bench, row: str, what: str, make: Callable[[], Mapping[str, bytes]], workers: int) -> Result:
    def measure(opened: Opened) -> list[float]:
        contents = make()
        seconds = many_uploads(opened, contents, workers)
        check_stored(bench, contents)
        return [seconds]

    pair = (
        partial(measure, lambda: contextlib.nullcontext(bench.cloud.put)),
        partial(measure, partial(posting, bench)),
    )
    rounds = min(3, bench.sizes.rounds)
    return Result(row, what, *alternate(f"{row} {what}", rounds, bench.sizes.row_seconds, pair)[0])


def upload(bench: Bench) -> Iterator[Result]:
    size = bench.sizes.large
    content = b"".join(secrets.token_bytes(MIB) for _ in range(0, size, MIB))
    yield uploads(bench, "upload", shown(size), lambda: {bench.new_key(): content}, 1)


def many(bench: Bench) -> Iterator[Result]:
    count = bench.sizes.uploads

    def make() -> dict[str, bytes]:
        return {bench.new_key(): secrets.token_bytes(LOG_SIZE) for _ in range(count)}

    for workers, how in ((1, "one by one"), (WORKERS, f"{WORKERS} at a time")):
        what = f"{count} x {shown(LOG_SIZE)}, {how}"
        yield uploads(bench, "many", what, make, workers)


def archive(bench: Bench) -> Iterator[Result]:
    files = device_trees(bench.sizes.trees)
    source, rounds = packed(bench.folder / "dtbs.tar.xz", files), min(3, bench.sizes.rounds)

    def one_by_one() -> list[float]:
        folder = bench.new_key()
        return [many_uploads(partial(posting, bench), {f"{folder}/{name}": files[name] for name in files}, 1)]

    def as_archive() -> list[float]:
        folder = bench.new_key()
        seconds = upload_archive(bench.port, source, bench.token, folder)
        check_stored(bench, {f"{folder}/{name}": files[name] for name in files})
        return [seconds]

    what = f"{len(files):,} x {shown(TREE_SIZE)}, for one by one"
    first = alternate("archive", rounds, rounds * bench.sizes.row_seconds, (one_by_one, as_archive))[0]
    yield Result("archive", what, *first, 1 / AS_ARCHIVE)


ROWS: Mapping[str, Callable[[Bench], Iterator[Result]]] = {
    "cold": cold,
    "warm": warm,
    "upload": upload,
    "many": many,
    "archive": archive,
}


# ---- Command line


def parse_arguments() -> argparse.Namespace:
    parser = parser_for("A cloud through kcistorage beside the same cloud alone.", ROWS)
    parser.add_argument("--backend", choices=list(CLOUDS), default="azure", help="default %(default)s")
    return parser.parse_args()


@contextlib.contextmanager
def prepared(backend: str, sizes: Sizes, folder: Path) -> Iterator[Bench]:
    """Emulator and server, warmed up: the first upload ever finds out what the storage can do."""
    config, files = folder / "config.toml", folder / "files"
    for each in (folder / "cloud", files):
        each.mkdir()
    say("starting")
    with CLOUDS[backend](folder / "cloud") as cloud:
        config.write_text(config_text(backend, cloud))
        with kcistorage(files, config) as server:
            buffer = bytearray(sizes.large)
            bench = Bench(sizes, folder, cloud, server.port, mint(config), buffer, itertools.count())
            contents = {bench.new_key(): secrets.token_bytes(SMALL) for _ in range(WORKERS)}
            many_uploads(partial(posting, bench), contents, WORKERS)
            others = {bench.new_key(): content for content in contents.values()}
            many_uploads(lambda: contextlib.nullcontext(cloud.put), others, WORKERS)
            check_stored(bench, contents)
            yield bench


def run(options: argparse.Namespace, folder: Path) -> tuple[list[Result], bool]:
    """What was measured, each printed as soon as it is known, and whether nothing failed and all targets were met."""
    results: list[Result] = []
    sizes = QUICK if options.quick else FULL
    try:
        require_space(folder, 20 * sizes.large)
        with prepared(options.backend, sizes, folder) as bench:
            title = f"{bench.cloud.name}, Python {sys.version.split()[0]}"
            print(f"{title:42} {'direct':>13} {'kcistorage':>13}   ratio", flush=True)
            for row in options.only:
                for result in ROWS[row](bench):
                    print(result, flush=True)
                    results.append(result)
    except Missing as missing:
        print(f"left out: {missing}", flush=True)
    except (OSError, RuntimeError, AssertionError) as error:
        print(f"FAILED: {error}", flush=True)
        return results, False
    return results, all(result.met for result in results)


def main() -> int:
    """0 when every target that was measured is met, else 1."""
    options = parse_arguments()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # ends the servers and removes the folder as well
    with tempfile.TemporaryDirectory(prefix="kcistorage-cloud-", dir=options.folder) as folder:
        results, good = run(options, Path(folder))
    written(options.json, [{**result._asdict(), "ratio": result.ratio, "met": result.met} for result in results])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
