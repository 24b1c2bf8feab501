"""The storages themselves, where they are on this host: SO-5, SO-7, SO-8."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from conformance.core import expect
from conformance.core.registry import clause
from conformance.core.wire import Closed
from conformance.stor.client import Client, path_of
from conformance.web.client import HALF

READS = 10  # a storage is chosen at random: ten reads all miss one of two once in 1,024 runs


def _put(path: Path, data: bytes) -> None:
    """Written beside and renamed, as a copy by hand should be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.conformance")
    beside.write_bytes(data)
    beside.replace(path)


def _files(storages: list[Path]) -> set[Path]:
    return {path for folder in storages for path in folder.rglob("*") if path.is_file()}


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]


@clause("SO-05a", "layout.written")
def test_written(stor: Client) -> None:
    """As an administrator looks for it."""
    data = stor.fresh("object", 5000)
    files = stor.files_of(data)
    stor.stored(data)
    for path in files:
        expect.that(path.is_file(), f"a file {path}", "none")
        expect.that(path.read_bytes() == data, f"{len(data)} right bytes", "others", str(path))


@clause("SO-05b", "layout.served")
def test_served(stor: Client) -> None:
    """Storages of another server, of yesterday, copied by hand."""
    data, twin = stor.fresh("object", 5000), stor.fresh("twin")
    stor.copies(twin)
    with stor.meddling():
        for path in stor.files_of(data):
            _put(path, data)
    stor.has(data, "GET of what was put there")
    expect.status(stor.store(data), 200, context="POST of what was put there")


@clause("SO-04k", "layout.no-leftovers")
def test_no_leftovers(stor: Client) -> None:
    """Broken off, wrong, refused; whole files of others may come meanwhile."""
    files = stor.copies(stor.fresh("whole"))
    broken = [stor.fresh(f"broken {number}", 2 * HALF) for number in range(3)]
    never = {path for data in broken for path in stor.files_of(data)}
    with stor.meddling():
        before = _files(stor.storages)
    expect.that(set(files) <= before, "the copies of the twin", "none of them")
    for number, data in enumerate(broken):
        leaving = stor.half_sent(data).connection
        (leaving.reset if number else leaving.close)()
        expect.status(stor.post(path_of(data), b"wrong"), 412, context="wrong bytes")
        expect.status(stor.request("POST", path_of(data), [], data), 401, context="no credentials")

    def clean() -> object:
        more = _files(stor.storages) - before
        return True if not more & never and all(path.suffix == ".dat" for path in more) else None

    stor.patience.eventually("early", clean, "no file more than before")


# ---------------------------------------------------------------------------------------------------------- copies


def _reads(stor: Client, data: bytes, context: str, *, may_break: bool = False) -> None:
    """Whole and in part, often enough to meet every storage: the right bytes, or where allowed none."""
    for number in range(READS):
        try:
            response = expect.status(stor.get(path_of(data)), 200, context=f"{context}, read {number + 1}")
            expect.body(response, data, f"{context}, read {number + 1}")
        except Closed as error:
            if not may_break:
                raise expect.Violation("the whole object", str(error), context) from None
            stor.transcript.note(f"broke off: {error}")
        head = stor.request("HEAD", path_of(data))
        expect.equal(expect.header(expect.status(head, 200), "Content-Length"), str(len(data)), "HEAD")


def _harmed(stor: Client, harm: Callable[[Path, bytes], None], context: str, *, may_break: bool = False) -> None:
    """Each storage in turn loses its copy, and the others keep theirs."""
    for number in range(len(stor.storages)):
        data = stor.fresh(f"object {number}", 150_000)
        files = stor.copies(data)
        stor.has(data, "before")
        with stor.meddling():
            harm(files[number], data)
        _reads(stor, data, f"{context} on storage {number + 1}", may_break=may_break)


@clause("SO-07a", "copies.missing")
def test_missing(stor: Client) -> None:
    """A disk was exchanged."""
    _harmed(stor, lambda path, data: path.unlink(), "no copy")


@clause("SO-07b", "copies.short")
def test_short(stor: Client) -> None:
    """A disk was full, or a copy broke off."""
    _harmed(stor, lambda path, data: os.truncate(path, 1000), "a short copy")
    _harmed(stor, lambda path, data: os.truncate(path, 0), "an empty copy")


@clause("SO-07c", "copies.flipped")
def test_flipped(stor: Client) -> None:
    """A bit has turned, in the first byte, in the last and in between. A client that hashes would know; few do."""
    for at in (0, 75_000, -1):
        _harmed(
            stor,
            lambda path, data, at=at: _put(path, _flip(data, at % len(data))),  # type: ignore[misc]
            f"a flipped copy at {at}",
            may_break=True,
        )


@clause("SO-07e", "copies.all-gone")
def test_all_gone(stor: Client) -> None:
    """Asked before, so that whoever remembers where it was must find out that it is not."""
    data = stor.fresh("object")
    files = stor.copies(data)
    stor.has(data, "before")
    with stor.meddling():
        for path in files:
            path.unlink()
    for _ in range(3):
        stor.has_not(data, "with every copy gone")
    expect.status(stor.request("HEAD", path_of(data)), 404, context="HEAD with every copy gone")
    expect.status(stor.store(data), 201, context="stored again")
    stor.has(data, "stored again")


@clause("SO-07f", "copies.restored")
def test_restored(stor: Client) -> None:
    """Read until the copy is whole again."""
    harms: dict[str, Callable[[Path, bytes], None]] = {
        "a missing copy": lambda path, data: path.unlink(),
        "a short copy": lambda path, data: os.truncate(path, 100),
        "a flipped copy": lambda path, data: _put(path, _flip(data, 7)),
    }
    for name, harm in harms.items():
        data = stor.fresh(name, 5000)
        files = stor.copies(data)
        with stor.meddling():
            harm(files[0], data)

        def restored(path: Path = files[0], data: bytes = data) -> object:
            stor.get(path_of(data))
            return True if path.is_file() and path.read_bytes() == data else None

        stor.patience.eventually("early", restored, f"{name} restored from its twin")
        expect.that(files[-1].read_bytes() == data, "the good twin untouched", "changed", name)


# --------------------------------------------------------------------------------------------- a storage that is away


@contextmanager
def _away(stor: Client, storage: Path) -> Iterator[None]:
    """The storage has another name for a while, and its own again whatever happens."""
    hidden = storage.with_name(storage.name + ".conformance-away")
    with stor.meddling():
        storage.rename(hidden)
    try:
        yield
    finally:
        if storage.exists():  # a server may have made it anew: what it put there is kept beside
            storage.rename(storage.with_name(storage.name + ".conformance-made"))
        hidden.rename(storage)


@clause("SO-07d", "copies.storage-away", alone=True)
def test_storage_away(stor: Client) -> None:
    """One after the other, so that the object is read from each."""
    data = stor.fresh("object", 5000)
    stor.copies(data)
    for number, storage in enumerate(stor.storages):
        with _away(stor, storage):
            _reads(stor, data, f"storage {number + 1} away")
    _reads(stor, data, "all back")


@clause("SO-07h", "copies.not-made-anew", alone=True)
def test_not_made_anew(stor: Client) -> None:
    """What is written where a disk was mounted is hidden when it is mounted again."""
    data = stor.fresh("object", 5000)
    stor.copies(data)
    for storage in stor.storages:
        with _away(stor, storage):
            _reads(stor, data, f"{storage.name} away")
            new = stor.fresh(f"new {storage.name}")
            stor.post(path_of(new), new)
            expect.that(not storage.exists(), f"no folder {storage}", "the server made one")


@clause("SO-04l", "together.whole-pair", alone=True)
def test_whole_pair(stor: Client) -> None:
    """A promise of two copies with one disk."""
    for storage in stor.storages:
        data = stor.fresh(f"without {storage.name}")
        with _away(stor, storage):
            response = stor.store(data)
            refused = response.status >= 500
            expect.that(refused, "507 or another 5xx", expect.describe(response), f"POST with {storage.name} away")
            stor.has_not(data, f"after the POST with {storage.name} away")
        expect.status(stor.store(data), 201, context=f"POST with {storage.name} back")
        stor.has(data)


@clause("SO-08c", "status.storage-away", alone=True)
def test_status_away(stor: Client) -> None:
    """What a monitor has to see."""
    expect.status(stor.get("/status"), 200, context="all there")
    for storage in stor.storages:
        with _away(stor, storage):
            response = expect.status(stor.get("/status"), 503, context=f"{storage.name} away")
            expect.that(storage.name in response.text, f"a text that names {storage}", response.text[:200])
            expect.status(stor.request("HEAD", "/status"), 503, context=f"HEAD, {storage.name} away")
        expect.status(stor.get("/status"), 200, context=f"{storage.name} back")
