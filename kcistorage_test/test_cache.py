"""Copies on disk: their layout, every state that a crash or a hand leaves, other processes, what is deleted when."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kcistorage_parts import cache as cache_part
from kcistorage_parts import eviction, files
from kcistorage_parts.cache import Cache
from kcistorage_parts.eviction import File, Housekeeping, Limits, Report, Space, choose_oldest, evict

KEY = "lab/job/243.bin"  # in the first shard
MINUTE_NS = 60 * 10**9


class Version(NamedTuple):
    """A copy as a reader has it."""

    content: bytes
    etag: str
    modified: int
    content_type: str


OLD = Version(b"old content", '"old"', 1_700_000_000, "a/old")
NEW = Version(b"new content", '"new"', 1_700_000_001, "a/new")  # of the same size
NEWER = Version(b"the newer content", '"newer"', 1_700_000_002, "a/newer")


def put(cache: Cache, version: Version, key: str = KEY) -> None:
    with cache.create() as copy:
        copy.write(version.content)
        copy.publish(key, len(version.content), *version[1:])


def close(descriptor: int) -> None:
    """As the parts do it, so that `System` knows."""
    part: Any = cache_part
    part.os.close(descriptor)


def get(cache: Cache, key: str = KEY) -> Optional[Version]:
    entry = cache.open(key)
    if entry is None:
        return None
    content = b"".join(iter(lambda: os.read(entry.descriptor, 1 << 20), b""))
    close(entry.descriptor)
    assert entry.size == len(content)
    return Version(content, entry.etag, entry.modified, entry.content_type)


class Folder:
    """A cache folder, and the names of one key in it. A new `Cache` is what a server that starts now has."""

    def __init__(self, path: Path, key: str = KEY) -> None:
        self.path, self.cache = path, Cache(str(path))
        self.name = hashlib.sha512(key.encode()).hexdigest()
        self.shard, self.uploads, self.boot = path / self.name[:2], path / "uploads", path / "boot"
        self.content = self.shard / f"{self.name}.content"
        self.headers = self.shard / f"{self.name}.headers"

    def seen(self) -> Optional[Version]:
        return get(Cache(str(self.path)))

    def files(self) -> set[Path]:
        return {path for path in self.path.rglob("*") if not path.is_dir()} - {self.boot}

    def assert_tidy(self) -> None:
        """There is a pair, or nothing, and the count knows which."""
        files = self.files()
        assert files in ({self.content, self.headers}, set())
        assert self.cache.count == len(files) // 2


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "cache")


# ---- Layout (CH-1): other tools read it, and other versions of this one


def test_a_pair_lies_where_other_tools_look(folder: Folder) -> None:
    put(folder.cache, OLD)
    digest = hashlib.sha512(b"lab/job/243.bin").hexdigest()
    content = folder.path / digest[:2] / f"{digest}.content"
    assert content.read_bytes() == b"old content"
    assert content.with_suffix(".headers").read_text() == (
        f'content-type:a/old\netag:"old"\nmodified:1700000000\nkey:lab/job/243.bin\nsize:11\n'
        f"mtime:{content.stat().st_mtime_ns}\n"
    )
    assert len(folder.files()) == 2


@pytest.mark.parametrize(
    ("key", "version"),
    [
        ("a", Version(b"", '""', 0, "")),
        ("ü/€/😀 +=~;#?'\"\\%20a..b", Version(b"\0\xff", 'W/"ü:\x80"', 99_999_999_999, "text/plain; charset=ü:\t\x85")),
        ("k" * 1024, Version(bytes(70_000), '"' + "e" * 2_000 + '"', 1, "t/" + "y" * 8_000)),
        ("x", Version(b"x", '"\udcff"', 1, "a/b")),
    ],
)
def test_what_is_published_is_what_is_opened(folder: Folder, key: str, version: Version) -> None:
    put(folder.cache, version, key)
    assert get(folder.cache, key) == get(Cache(str(folder.path)), key) == version


@pytest.mark.parametrize("version", [OLD._replace(content_type="a/b\nkey:x"), OLD._replace(etag='"a"\nmodified:1')])
def test_a_line_break_in_a_value_makes_a_miss_and_no_other_value(folder: Folder, version: Version) -> None:
    put(folder.cache, version)
    assert get(folder.cache) is None


def test_a_copy_was_current_when_it_was_published(folder: Folder) -> None:
    before = time.time()
    put(folder.cache, OLD)
    entry = folder.cache.open(KEY)
    assert entry is not None
    os.close(entry.descriptor)
    assert before - 0.1 < entry.checked <= time.time()


def test_the_folder_is_made_and_not_looked_at(tmp_path: Path, system: System) -> None:
    Cache(str(tmp_path / "a/b/cache"))
    assert (tmp_path / "a/b/cache/uploads").is_dir()
    assert system.take_names() == ["makedirs"]


def test_a_folder_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = Cache("cache")
    monkeypatch.chdir("/")
    put(cache, OLD)
    assert get(Cache(str(tmp_path / "cache"))) == OLD


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Cache(str(tmp_path / "file/cache"))


# ---- What is damaged, or put there by hand, is a miss


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_a_file(path: Path) -> None:
    """To what would serve, were it no link."""
    path.with_suffix(".before").rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def nothing(path: Path) -> None:
    pass


def empty_file(path: Path) -> None:
    path.touch()


def binary_junk(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 30)


def a_terabyte(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


REPLACEMENTS = [
    nothing, fifo, link_to_itself, link_to_a_file, link_to_a_device, Path.mkdir, empty_file, binary_junk, a_terabyte,
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".content", ".headers"])
@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_what_is_not_ours_is_a_miss_and_the_next_copy_takes_its_place(
    folder: Folder, replace: Callable[[Path], object], suffix: str
) -> None:
    put(folder.cache, OLD)
    path = folder.content.with_suffix(suffix)
    path.rename(path.with_suffix(".before"))
    replace(path)
    path.with_suffix(".before").unlink(missing_ok=True)
    assert folder.seen() is None
    if replace is Path.mkdir:  # nobody makes these by mistake, and deleting folders is not ours
        with pytest.raises(IsADirectoryError):
            put(folder.cache, NEW)
        path.rmdir()
    put(folder.cache, NEW)
    assert folder.seen() == NEW


@pytest.mark.parametrize("make", [Path.mkdir, fifo])
def test_what_is_no_file_is_a_miss_even_with_headers_of_its_own(folder: Folder, make: Callable[[Path], object]) -> None:
    put(folder.cache, OLD)
    before = folder.content.stat()
    folder.content.unlink()
    make(folder.content)
    after, text = folder.content.stat(), folder.headers.read_text()
    text = text.replace(f"size:{before.st_size}", f"size:{after.st_size}")
    folder.headers.write_text(text.replace(f"{before.st_mtime_ns}", f"{after.st_mtime_ns}"))
    assert folder.seen() is None


def test_headers_cut_anywhere_are_a_miss(folder: Folder) -> None:
    put(folder.cache, OLD)
    text = folder.headers.read_bytes()
    for length in range(len(text)):
        folder.headers.write_bytes(text[:length])
        assert folder.seen() is None
    folder.headers.write_bytes(text)
    assert folder.seen() == OLD


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"modified:1700000000", b"modified:"),
        (b"modified:1700000000", b"modified:-1"),
        (b"modified:1700000000", b"modified:\xd9\xa1\xd9\xa7"),
        (b"modified:1700000000", b"modified:" + b"9" * 5_000),
        (b"size:11", b"size:12"),
        (b"size:11", b"size:11\nsize:11"),
        (b"mtime:1", b"mtime:2"),
        (b"key:lab/job/243.bin", b"key:lab/job/y.bin"),
        (b"etag:", b"e-tag:"),
        (b"etag:", b"\xff\xfe\0"),
        (b"content-type:a/old\n", b""),
        (b"content-type:a/old", b"content-type:" + b"x" * cache_part.MAX_HEADERS),
    ],
)
def test_headers_that_are_edited_wrongly_are_a_miss(folder: Folder, old: bytes, new: bytes) -> None:
    put(folder.cache, OLD)
    text = folder.headers.read_bytes()
    assert old in text
    folder.headers.write_bytes(text.replace(old, new))
    assert folder.seen() is None
    folder.cache.touch(KEY, OLD.etag)


@given(st.binary(max_size=300))
def test_no_headers_raise(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    folder = Folder(tmp_path_factory.getbasetemp() / "any")
    put(folder.cache, OLD)
    folder.headers.write_bytes(text)
    assert folder.seen() is None


def test_content_that_is_changed_in_place_is_a_miss(folder: Folder) -> None:
    put(folder.cache, OLD)
    assert get(folder.cache) == OLD
    folder.content.write_bytes(b"x" * len(OLD.content))
    assert get(folder.cache) is None, "though the headers are in memory"
    assert folder.seen() is None


def test_a_pair_under_the_name_of_another_key_is_a_miss(folder: Folder) -> None:
    put(folder.cache, OLD, "other")
    other = Folder(folder.path, "other")
    folder.shard.mkdir()
    other.content.rename(folder.content)
    other.headers.rename(folder.headers)
    assert folder.seen() is None


def test_a_folder_that_somebody_empties_is_filled_again(folder: Folder) -> None:
    put(folder.cache, OLD)
    shutil.rmtree(folder.path)
    assert get(folder.cache) is None
    folder.cache.touch(KEY, OLD.etag)
    folder.cache.drop(KEY)
    put(folder.cache, NEW)
    assert get(folder.cache) == NEW
    with folder.cache.create() as copy:
        copy.write(NEWER.content)
        shutil.rmtree(folder.path)
        with pytest.raises(FileNotFoundError):
            copy.publish(KEY, len(NEWER.content), *NEWER[1:])


# ---- System calls: how many, and what if one fails


class Dead(BaseException):
    """The process was killed: nothing of it runs from here on."""


class System:
    """`os` and `fcntl` as the parts have them: `before` is told of each system call and may raise in its place."""

    CALLS = frozenset(
        "open close read write flock fstat lstat utime rename unlink makedirs scandir statvfs".split()  # noqa: SIM905
    )

    def __init__(self, before: Callable[[str], object] = lambda name: None) -> None:
        self.before = before
        self.calls: list[tuple[str, str]] = []  # name and the path that it is about
        self._paths: dict[int, str] = {}  # of the open descriptors

    def __getattr__(self, name: str) -> Any:
        function = getattr(os if hasattr(os, name) else fcntl, name)
        if name not in self.CALLS:
            return function
        return lambda *arguments, **options: self._call(name, function, *arguments, **options)

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        about: Any = arguments[-1] if name == "rename" else arguments[0]
        path = self._paths.get(about, "") if isinstance(about, int) else os.fsdecode(about)
        self.calls.append((name, path))
        if name == "close":  # which closes even where it fails
            del self._paths[about]
            os.close(about)
        self.before(name)
        result: Any = None if name == "close" else function(*arguments, **options)
        if name == "open":
            self._paths[result] = path
        return result

    def take_names(self) -> list[str]:
        names = [name for name, _ in self.calls]
        self.calls.clear()
        return names

    def bury(self) -> None:
        """What the kernel does for a dead process: it closes, and so unlocks, all that was open."""
        self.before = lambda name: None
        for descriptor in self._paths:
            os.close(descriptor)
        self._paths.clear()

    @property
    def open_files(self) -> list[str]:
        return sorted(self._paths.values())


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    system = System()
    for part in (cache_part, eviction, files):
        monkeypatch.setattr(part, "os", system)
        monkeypatch.setattr(part, "fcntl", system, raising=False)
    return system


@pytest.fixture
def one_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that walk many times."""
    monkeypatch.setattr(eviction, "SHARDS", 1)


class Nth:
    """Raises at the n-th system call; one that kills raises at all later ones too."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.number, self.error, self.count, self.happened = number, error, 0, False

    def __call__(self, name: str) -> None:
        self.count += 1
        if self.count == self.number or (self.count > self.number and isinstance(self.error, Dead)):
            self.happened = True
            raise self.error


def test_a_hit_is_two_system_calls(folder: Folder, system: System) -> None:
    """A download waits for each of them, and for the GIL after it."""
    put(folder.cache, OLD)
    system.take_names()
    first = folder.cache.open(KEY)
    assert system.take_names() == ["open", "fstat", "open", "read", "fstat", "close"]
    second = folder.cache.open(KEY)
    assert system.take_names() == ["open", "fstat"]
    assert folder.cache.open("other") is None
    assert system.take_names() == ["open"]
    assert first is not None
    assert second is not None
    assert first._replace(descriptor=0) == second._replace(descriptor=0)
    system.bury()


def test_headers_in_memory_have_a_bound(folder: Folder, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_part, "MOST_KNOWN", 2)
    for key in ("a", "b", "c"):
        put(folder.cache, OLD, key)
        assert get(folder.cache, key) == OLD
    calls: dict[str, list[int]] = {}
    for key in ("b", "c", "a", "b"):
        system.take_names()
        assert get(folder.cache, key) == OLD
        calls.setdefault(key, []).append(len(system.take_names()))
    system.bury()
    assert calls == {"b": [3, 7], "c": [3], "a": [7]}, "with the close"


@pytest.mark.parametrize("failing", ["open", "fstat", "read"])
@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE])
def test_what_cannot_be_read_is_a_miss(folder: Folder, system: System, error: int, failing: str) -> None:
    """The object can still be had from the cloud, past the cache."""

    def fail(name: str) -> None:
        if name == failing:
            raise OSError(error, "injected")

    put(folder.cache, OLD)
    system.before = fail
    assert folder.cache.open(KEY) is None
    assert system.open_files == []
    system.before = Nth(4, OSError(error, "injected"))
    assert get(folder.cache) == OLD, "a second look is better than a transfer"


def nothing_there(folder: Folder) -> None:
    pass


def an_old_pair(folder: Folder) -> None:
    put(folder.cache, OLD)
    assert get(folder.cache) == OLD, "now its headers are in memory"


def an_old_content(folder: Folder) -> None:
    put(folder.cache, OLD)
    folder.headers.unlink()


def old_headers(folder: Folder) -> None:
    put(folder.cache, OLD)
    folder.content.unlink()


SCENES = [nothing_there, an_old_pair, an_old_content, old_headers]


def publish(folder: Folder, cache: Cache) -> None:
    put(cache, NEW)


def drop(folder: Folder, cache: Cache) -> None:
    cache.drop(KEY)


def recover(folder: Folder, cache: Cache) -> None:
    Housekeeping(cache).recover()


def clear_out(folder: Folder, cache: Cache) -> None:
    Housekeeping(cache).tidy(Limits(max_files=0, low_free=0, high_free=0))


ACTIONS: list[Callable[[Folder, Cache], None]] = [publish, drop, recover, clear_out]


def each_call(
    make: Callable[[], BaseException], scene: Callable[[Folder], None], path: Path, system: System
) -> Iterator[Folder]:
    """The scene, again and again, each time with a fault at one system call later, until there is none left."""
    for number in itertools.count(1):
        folder = Folder(path / f"{number}")
        scene(folder)
        system.before = nth = Nth(number, make())
        yield folder
        if not nth.happened:
            assert number > 2, "these were not all system calls"
            return


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("act", ACTIONS)
def test_killed_at_any_system_call(
    act: Callable[[Folder, Cache], None],
    scene: Callable[[Folder], None],
    tmp_path: Path,
    system: System,
    one_shard: None,
) -> None:
    """Invariant, CH-1: whenever it is killed, all see the old copy, the new one, or none, never parts of two; the next
    start leaves nothing of the dead, and the next copy is a hit."""
    before = OLD if scene is an_old_pair else None
    possible = {before, NEW if act is publish else before if act is recover else None}
    seen = set()
    for folder in each_call(Dead, scene, tmp_path, system):
        with contextlib.suppress(Dead):
            act(folder, Cache(str(folder.path)))
        system.bury()
        found = folder.seen()
        assert found in {*possible, None}
        assert get(folder.cache) in (before, found), "whoever has the old headers in memory may have the old content"
        recover(folder, folder.cache)
        assert folder.seen() == found
        folder.assert_tidy()
        put(folder.cache, NEWER)
        assert folder.seen() == get(folder.cache) == NEWER
        folder.assert_tidy()
        seen.add(found)
    assert possible <= seen, "no kill came early enough, or late enough"


def failure(call: Callable[[], object]) -> Optional[int]:
    try:
        call()
    except OSError as error:
        return error.errno
    return None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("scene", SCENES)
def test_an_error_of_any_system_call_of_a_publisher(
    scene: Callable[[Folder], None], number: int, tmp_path: Path, system: System
) -> None:
    """What went wrong is told, and it leaves nothing behind, or the old copy."""
    outcomes = set()
    for folder in each_call(lambda: OSError(number, "injected"), scene, tmp_path, system):
        there = folder.files()
        error = failure(lambda folder=folder: put(folder.cache, NEW))  # type: ignore[misc]
        nth, system.before = system.before, lambda name: None
        assert isinstance(nth, Nth)
        last = nth.happened and nth.count == nth.number > 1  # to close what is published
        assert system.open_files == []
        found = folder.seen()
        assert found in ((NEW,) if error is None or last else (None, OLD))
        assert folder.files() <= there | {folder.content, folder.headers}
        assert list(folder.uploads.iterdir()) == []
        if found != NEW and scene is not an_old_pair:
            assert folder.files() <= there
        put(folder.cache, NEWER)
        assert folder.seen() == get(folder.cache) == NEWER
        outcomes.add((error, found))
    assert {(None, NEW), (number, None)} <= outcomes <= {(None, NEW), (number, None), (number, OLD), (number, NEW)}


def test_what_a_disk_that_became_read_only_keeps_is_a_leftover(folder: Folder, system: System) -> None:
    def read_only(name: str) -> None:
        if name in ("unlink", "write"):
            raise OSError(errno.EROFS, "injected")

    put(folder.cache, OLD)
    copy = folder.cache.create()
    system.before = read_only
    with contextlib.closing(copy), pytest.raises(OSError, match="injected"):
        copy.write(b"x")
    with pytest.raises(OSError, match="injected"):
        folder.cache.drop(KEY)
    assert system.open_files == []
    system.before = lambda name: None
    assert len(list(folder.uploads.iterdir())) == 1
    recover(folder, folder.cache)
    assert list(folder.uploads.iterdir()) == []
    assert get(folder.cache) == OLD


def test_a_read_only_disk_can_be_read(folder: Folder, system: System) -> None:
    put(folder.cache, OLD)

    def read_only(name: str) -> None:
        if name in ("unlink", "write", "rename", "utime"):
            raise OSError(errno.EROFS, "injected")

    system.before = read_only
    reader = Cache(str(folder.path))
    assert get(reader) == OLD
    reader.touch(KEY, OLD.etag)
    housekeeping = Housekeeping(reader)
    housekeeping.recover()
    assert housekeeping.tidy(Limits(max_files=0)).deleted == 0
    assert (reader.count, get(reader)) == (1, OLD)
    system.bury()


# ---- Copies in the making


def test_blocks_may_be_written_in_any_order_and_read_meanwhile(folder: Folder) -> None:
    with folder.cache.create() as copy:
        os.pwrite(copy.descriptor, b"content", 4)
        assert os.pread(copy.descriptor, 100, 4) == b"content"
        os.pwrite(copy.descriptor, b"new ", 0)
        assert get(folder.cache) is None
        copy.publish(KEY, 11, *NEW[1:])
        assert folder.seen() == NEW
        assert os.pread(copy.descriptor, 100, 0) == b"new content", "readers who follow the copy go on"
    folder.assert_tidy()


def test_a_write_that_takes_only_a_part_is_continued(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    put(folder.cache, NEW)
    assert folder.seen() == NEW


def test_what_is_not_published_leaves_no_trace(folder: Folder) -> None:
    copy = folder.cache.create()
    copy.write(b"x")
    copy.close()
    copy.close()
    assert folder.files() == set()
    with pytest.raises(ZeroDivisionError), folder.cache.create() as copy:
        raise ZeroDivisionError
    assert folder.files() == set()


@pytest.mark.parametrize("size", [0, 10, 12])
def test_a_copy_of_another_size_is_never_published(folder: Folder, size: int) -> None:
    """DL-7: a fetch that broke is not a copy."""
    put(folder.cache, OLD)
    with folder.cache.create() as copy:
        copy.write(NEW.content)
        with pytest.raises(OSError, match="a copy of") as raised:
            copy.publish(KEY, size, *NEW[1:])
        assert raised.value.errno == errno.EIO
    assert folder.seen() == OLD
    folder.assert_tidy()


def test_a_copy_that_is_written_to_once_it_is_published_is_a_miss(folder: Folder) -> None:
    with folder.cache.create() as copy:
        copy.write(NEW.content)
        copy.publish(KEY, len(NEW.content), *NEW[1:])
        assert get(folder.cache) == NEW
        os.pwrite(copy.descriptor, b"bad", 0)
    assert get(folder.cache) is None
    assert folder.seen() is None


def test_two_versions_within_one_tick_of_a_coarse_clock(
    folder: Folder, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and mtime are the same: so headers of the one would do for the other, between the two renames."""
    monkeypatch.setattr("kcistorage_parts.cache.time.time_ns", lambda: 1_700_000_000 * 10**9)
    for version in (OLD, NEW, OLD, NEW):
        seen = []
        system.before = lambda name: seen.append(folder.seen()) if name == "rename" else None  # noqa: B023
        put(folder.cache, version)
        assert set(seen) <= {None}
        system.before = lambda name: None
        assert folder.seen() == get(folder.cache) == version
        folder.assert_tidy()


def test_an_old_pair_is_there_until_the_new_one_is(folder: Folder, system: System) -> None:
    """For whoever has its headers in memory: a file that many ask for is never a miss while it is overwritten."""
    put(folder.cache, OLD)
    assert get(folder.cache) == OLD
    seen: list[Optional[Version]] = []
    system.before = lambda name: seen.append(get(folder.cache)) if name == "rename" else None
    put(folder.cache, NEW)
    assert seen == [OLD, OLD]
    assert get(folder.cache) == NEW


# ---- Others at the same time: threads, and processes on the same folder


class Between:
    """Does something once, just before the n-th system call of whoever is watched."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self.number, self.act, self.done = number, act, False

    def __call__(self, name: str) -> None:
        self.number -= 1
        if self.number == 0:
            self.done = True
            self.act()


@pytest.mark.parametrize("act", [publish, drop, clear_out])
def test_whatever_happens_between_two_calls_of_a_reader(
    act: Callable[[Folder, Cache], None], tmp_path: Path, system: System, one_shard: None
) -> None:
    """Invariant: a reader gets one version, whole; and it misses none for being overtaken by a publisher."""
    found = set()
    for number in itertools.count(1):
        folder = Folder(tmp_path / f"{number}")
        put(folder.cache, OLD)
        system.before = between = Between(number, lambda folder=folder: act(folder, folder.cache))  # type: ignore[misc]
        found.add(get(Cache(str(folder.path))))
        system.before = lambda name: None
        if not between.done:
            break
    assert number > 6
    assert found == ({OLD, NEW} if act is publish else {OLD, None})


def test_another_process_s_changes_are_seen(folder: Folder) -> None:
    other = Cache(str(folder.path))
    put(other, OLD)
    assert get(folder.cache) == OLD
    put(other, NEW)
    assert get(folder.cache) == NEW
    other.drop(KEY)
    assert get(folder.cache) is None


def test_what_is_open_stays_good(folder: Folder) -> None:
    """CH-3: a file being sent is never cut off."""
    put(folder.cache, OLD)
    entry = folder.cache.open(KEY)
    assert entry is not None
    clear_out(folder, folder.cache)
    assert folder.files() == set()
    put(folder.cache, NEW)
    assert os.read(entry.descriptor, 100) == OLD.content
    os.close(entry.descriptor)


def test_threads_never_see_parts_of_two_versions(folder: Folder) -> None:
    """Invariant: content and headers are of one version, and when all is quiet the count is right."""
    keys, numbers = ["a", "b"], itertools.count(1)
    end, faults, hits = threading.Event(), [], itertools.count()
    housekeeping = Housekeeping(folder.cache)

    def version(number: int) -> Version:
        return Version(b"%09d" % number * (number % 3 + 1), f'"{number}"', number, f"t/{number}")

    def until_the_end(step: Callable[[random.Random], object]) -> None:
        dice = random.Random()
        try:
            while not end.is_set():
                step(dice)
        except BaseException as error:
            faults.append(error)
            end.set()
            raise

    def read(dice: random.Random) -> None:
        found = get(folder.cache if dice.random() < 0.5 else Cache(str(folder.path)), dice.choice(keys))
        if found is not None:
            assert found == version(found.modified)
            next(hits)

    def write(dice: random.Random) -> None:
        put(folder.cache, version(next(numbers)), dice.choice(keys))

    steps: list[Callable[[random.Random], object]] = [
        read, read, write, write,
        lambda dice: folder.cache.drop(dice.choice(keys)),
        lambda dice: housekeeping.tidy(Limits(max_files=dice.randrange(2), low_free=0, high_free=0)),
        lambda dice: folder.cache.touch(dice.choice(keys), f'"{dice.randrange(1, 500)}"'),
    ]  # fmt: skip
    threads = [threading.Thread(target=until_the_end, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    end.wait(1.5)
    end.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert next(hits) > 50
    assert folder.cache.count == len(list(folder.path.glob("*/*.content")))
    housekeeping.recover()
    assert (
        folder.cache.count == len(list(folder.path.glob("*/*.content"))) == len(list(folder.path.glob("*/*.headers")))
    )


# ---- When it was last known to be current (CH-2)


def checked(cache: Cache, key: str = KEY) -> float:
    entry = cache.open(key)
    assert entry is not None
    os.close(entry.descriptor)
    return entry.checked


def test_what_is_found_to_be_current_is_noted_without_a_rewrite(folder: Folder) -> None:
    put(folder.cache, OLD)
    os.utime(folder.headers, (1_000, 1_000))
    inode, mtime = folder.headers.stat().st_ino, folder.content.stat().st_mtime_ns
    assert checked(folder.cache) == 1_000
    before = time.time()
    folder.cache.touch(KEY, OLD.etag)
    for cache in (folder.cache, Cache(str(folder.path))):
        assert before - 0.001 <= checked(cache) <= time.time()
    assert folder.headers.stat().st_ino == inode
    assert folder.content.stat().st_mtime_ns == mtime, "eviction goes by the time it was stored"


def test_a_touch_never_makes_another_version_current(folder: Folder) -> None:
    put(folder.cache, NEW)
    os.utime(folder.headers, (1_000, 1_000))
    folder.cache.touch(KEY, OLD.etag)
    folder.cache.touch("other", OLD.etag)
    assert checked(folder.cache) == 1_000
    folder.cache.touch(KEY, OLD.etag)
    assert checked(folder.cache) == checked(Cache(str(folder.path))) == 1_000


# ---- The start: what crashes left (CH-1)


def test_a_start_removes_uploads_of_the_dead(folder: Folder) -> None:
    for name in ("0123", "0123.headers", "4567", "89ab.headers"):
        (folder.uploads / name).touch()
    fifo(folder.uploads / "fifo")
    (folder.uploads / "folder").mkdir()
    recover(folder, folder.cache)
    assert list(folder.uploads.iterdir()) == [folder.uploads / "folder"]


COPYING = """
import sys
from kcistorage_parts.cache import Cache
copy = Cache(sys.argv[1]).create()
copy.write(b"new content")
print("ready", flush=True)
sys.stdin.readline()
copy.publish("lab/job/243.bin", 11, '"new"', 1_700_000_001, "a/new")
print("done", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def copying(folder: Folder) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has made a copy."""
    command, home = [sys.executable, "-c", COPYING, str(folder.path)], Path(cache_part.__file__).parent.parent
    with subprocess.Popen(command, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_start_leaves_uploads_of_the_living_alone(folder: Folder) -> None:
    with copying(folder) as process:
        recover(folder, folder.cache)
        print(file=process.stdin, flush=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        assert get(folder.cache) == NEW
        with copying(folder) as other:
            other.kill()
            other.wait(10)
            assert len(list(folder.uploads.iterdir())) == 1
            recover(folder, folder.cache)
            assert list(folder.uploads.iterdir()) == []
    folder.assert_tidy()


def test_whenever_another_server_starts_a_copy_goes_on(tmp_path: Path, system: System, one_shard: None) -> None:
    for number in itertools.count(1):
        folder = Folder(tmp_path / f"{number}")
        other = Housekeeping(Cache(str(folder.path)))
        system.before = between = Between(number, other.recover)
        put(folder.cache, NEW)
        system.before = lambda name: None
        assert list(folder.uploads.iterdir()) == []
        assert folder.files() in ({folder.content, folder.headers}, {folder.content}), "a miss is the worst"
        recover(folder, folder.cache)
        folder.assert_tidy()
        if not between.done:
            break
    assert number > 9
    assert folder.seen() == NEW


def test_halves_of_pairs_are_removed_and_pairs_are_counted(folder: Folder) -> None:
    for number in range(40):
        put(folder.cache, OLD, f"{number}")
    Folder(folder.path, "1").content.unlink()
    Folder(folder.path, "2").headers.unlink()
    cache = Cache(str(folder.path))
    assert cache.count == 0
    recover(folder, cache)
    assert cache.count == 38
    assert len(folder.files()) == 76


class Watched(Housekeeping):
    """Does something at each of the first steps in a shard: when it has read one more name, and when all."""

    def __init__(self, cache: Cache, act: Callable[[], object], steps: int) -> None:
        super().__init__(cache)
        self._act, self._left = act, iter(range(steps))

    def _listed(self, folder: bytes) -> Iterator[bytes]:
        for name in super()._listed(folder):
            yield name
            self._step(folder)
        self._step(folder)

    def _step(self, folder: bytes) -> None:
        if folder.endswith(b"/00") and next(self._left, None) is not None:
            self._act()


FIRST_SHARD = [key for key in map(str, range(40_000)) if hashlib.sha512(key.encode()).digest()[0] == 0]


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_a_count_is_right_whatever_comes_and_goes_meanwhile(folder: Folder, steps: int, one_shard: None) -> None:
    keys = iter(FIRST_SHARD)
    cache = folder.cache
    for _ in range(10):
        put(cache, OLD, next(keys))
    gone = iter(FIRST_SHARD)

    def change() -> None:
        put(cache, OLD, next(keys))
        put(cache, OLD, next(keys))
        cache.drop(next(gone))

    Watched(cache, change, steps).recover()
    assert cache.count == len(list(folder.path.glob("00/*.content"))) == 10 + steps


@pytest.mark.parametrize("half", ["content", "headers"])
def test_a_half_that_another_process_makes_whole_meanwhile_stays(folder: Folder, half: str) -> None:
    put(folder.cache, OLD)
    getattr(folder, half).unlink()
    other, steps = Cache(str(folder.path)), itertools.count()
    Watched(folder.cache, lambda: put(other, NEW) if next(steps) else None, 2).recover()
    assert folder.seen() == NEW
    recover(folder, folder.cache)
    folder.assert_tidy()


def test_what_has_no_name_of_ours_is_nobody_s_business(folder: Folder) -> None:
    put(folder.cache, OLD)
    digest = "0" * 127
    foreign = [
        "README", "ab/README", "ab/x.content", f"0/{digest}0.content", f"0g/{digest}0.content",
        f"00/{digest}G.content", f"00/{digest}0.content.bak", f"01/{digest}0.headers", f"01/{digest}0.content",
        f"{digest}0.txt", f"{digest}.headers",
    ]  # fmt: skip
    for name in foreign:
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).touch()
    before = folder.files()
    housekeeping = Housekeeping(folder.cache)
    housekeeping.recover()
    assert folder.files() == before
    assert folder.cache.count == 1
    assert housekeeping.tidy(Limits(max_files=0, low_free=0, high_free=0)).deleted == 1
    assert folder.files() == before - {folder.content, folder.headers}


# ---- Old layouts (CH-1)

UPSTREAM = (
    'content-length:{size}\ncontent-type:a/old\nlast-modified:Tue, 14 Nov 2023 22:13:20 GMT\netag:"old"\n'
    "server:Windows-Azure-Blob/1.0 Microsoft-HTTPAPI/2.0\nx-ms-request-id:5a-b:c\ndate:Wed, 15 Nov 2023 01:00:00 GMT\n"
)


class Flat(Folder):
    """A folder in which a pair lies as it did in older layouts."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.old_content, self.old_headers = path / f"{self.name}.content", path / f"{self.name}.headers"

    def fill(self, text: str, content: bytes = OLD.content) -> None:
        self.old_content.write_bytes(content)
        os.utime(self.old_content, (2_000, 2_000))
        self.old_headers.write_text(text.format(size=len(content)), errors="surrogateescape")
        os.utime(self.old_headers, (3_000, 3_000))


@pytest.fixture
def flat(tmp_path: Path) -> Flat:
    return Flat(tmp_path / "cache")


def test_a_pair_of_kernelci_storage_moves_over(flat: Flat) -> None:
    flat.fill(UPSTREAM)
    assert flat.seen() is None
    recover(flat, flat.cache)
    assert get(flat.cache) == flat.seen() == OLD
    assert flat.content.stat().st_mtime == 2_000, "it keeps its age"
    assert checked(flat.cache) == 3_000, "and nobody has asked since"
    flat.assert_tidy()
    flat.cache.touch(KEY, OLD.etag)
    assert checked(Cache(str(flat.path))) > 3_000


def test_a_flat_pair_of_our_own_moves_over(flat: Flat) -> None:
    put(flat.cache, OLD)
    mtime = flat.content.stat().st_mtime_ns
    flat.content.rename(flat.old_content)
    flat.headers.rename(flat.old_headers)
    cache = Cache(str(flat.path))
    recover(flat, cache)
    assert get(cache) == flat.seen() == OLD
    assert flat.content.stat().st_mtime_ns == mtime
    assert (len(flat.files()), cache.count) == (2, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        UPSTREAM.replace("{size}", "12"),
        UPSTREAM.replace("etag:", "x:"),
        UPSTREAM.replace('"old"', 'W/"old"'),
        UPSTREAM.replace("last-modified", "x"),
        UPSTREAM.replace("14 Nov 2023", "99 Foo 99999"),
        UPSTREAM.replace("Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 99 Nov 99999999999 22:13:20 GMT"),
        UPSTREAM + "mtime:1\n",
        'etag:"old"\nsize:11\nmodified:yesterday\n',
        "\0\udcff\udcfe\n" * 30_000,
    ],
)
def test_an_old_pair_that_cannot_be_trusted_is_deleted(flat: Flat, text: str) -> None:
    flat.fill(text)
    recover(flat, flat.cache)
    assert flat.seen() is None
    flat.assert_tidy()
    assert flat.files() == set()


def test_a_link_of_an_old_layout_is_deleted(flat: Flat) -> None:
    flat.fill(UPSTREAM, b"x" * 9)
    flat.old_content.rename(flat.path / "elsewhere")
    flat.old_content.symlink_to("elsewhere")  # nine bytes, too
    recover(flat, flat.cache)
    assert flat.files() == {flat.path / "elsewhere"}


@pytest.mark.parametrize("name", ["old_content", "old_headers"])
def test_half_an_old_pair_is_deleted(flat: Flat, name: str) -> None:
    flat.fill(UPSTREAM)
    getattr(flat, name).unlink()
    recover(flat, flat.cache)
    assert flat.files() == set()


def test_a_newer_copy_wins_over_an_old_layout(flat: Flat) -> None:
    flat.fill(UPSTREAM)
    put(flat.cache, NEW)
    recover(flat, flat.cache)
    assert flat.seen() == NEW
    flat.assert_tidy()


def test_killed_while_old_layouts_move_over(tmp_path: Path, system: System, one_shard: None) -> None:
    """Whatever has happened, the next start ends it, and nothing is left at the old place."""
    found = set()
    for number in itertools.count(1):
        flat = Flat(tmp_path / f"{number}")
        flat.fill(UPSTREAM)
        system.before = nth = Nth(number, Dead())
        with contextlib.suppress(Dead):
            recover(flat, flat.cache)
        system.bury()
        assert flat.seen() in (OLD, None)
        flat = Flat(tmp_path / f"{number}")
        recover(flat, flat.cache)
        found.add(flat.seen())
        flat.assert_tidy()
        if not nth.happened:
            break
    assert found == {OLD}, "not one is lost"
    assert number > 10


# ---- Loss of power


@pytest.fixture
def booted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that tells the boot of the machine."""
    path = tmp_path / "boot_id"
    path.write_text("first\n")
    monkeypatch.setattr(eviction, "BOOT_ID", os.fsencode(path))
    return path


def age(path: Path, nanoseconds: int) -> None:
    """Makes a copy older, and its headers with it."""
    before = path.stat().st_mtime_ns
    os.utime(path, ns=(before - nanoseconds, before - nanoseconds))
    headers = path.with_suffix(".headers")
    headers.write_text(headers.read_text().replace(f"{before}", f"{path.stat().st_mtime_ns}"))


def test_what_a_loss_of_power_may_have_spoilt_is_dropped(folder: Folder, booted: Path) -> None:
    recover(folder, folder.cache)
    put(folder.cache, OLD, "settled")
    put(folder.cache, OLD, "fresh")
    age(Folder(folder.path, "settled").content, 11 * MINUTE_NS)
    age(Folder(folder.path, "fresh").content, 9 * MINUTE_NS)
    booted.write_text("second\n")
    cache = Cache(str(folder.path))
    housekeeping = Housekeeping(cache)
    assert (get(cache, "settled"), get(cache, "fresh")) == (OLD, None), "and not served before that is done"
    put(cache, NEW, "new")
    assert get(cache, "new") == NEW
    housekeeping.tidy(Limits())
    housekeeping.recover()
    assert [get(cache, key) for key in ("settled", "fresh", "new")] == [OLD, None, NEW]
    assert (cache.count, len(folder.files())) == (2, 4)
    third = Cache(str(folder.path))
    Housekeeping(third).recover()
    assert get(third, "new") == NEW, "the machine was not booted since"


def test_a_start_that_is_cut_short_is_no_reason_to_trust(
    folder: Folder, booted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recover(folder, folder.cache)
    put(folder.cache, OLD)
    booted.write_text("second\n")
    monkeypatch.setattr(eviction, "SLICE", 0.0)
    stopping = Housekeeping(Cache(str(folder.path)), lambda: True)
    stopping.recover()
    stopping.tidy(Limits(low_free=0))
    assert len(folder.files()) == 2
    later = Cache(str(folder.path))
    Housekeeping(later)
    assert get(later) is None


def test_a_crash_of_the_server_alone_costs_nothing(folder: Folder, booted: Path) -> None:
    recover(folder, folder.cache)
    put(folder.cache, OLD)
    recover(folder, Cache(str(folder.path)))
    assert folder.seen() == OLD


def test_without_a_boot_id_nothing_is_dropped(folder: Folder, booted: Path) -> None:
    booted.unlink()
    recover(folder, folder.cache)
    put(folder.cache, OLD)
    recover(folder, Cache(str(folder.path)))
    assert folder.seen() == OLD
    assert not folder.boot.exists()


# ---- The rule (CH-3): pure


class Disk:
    """Files of a size and a time, of which some cannot be removed, on a disk that others use as well."""

    def __init__(self, files: Sequence[tuple[int, int]], total: int, others: int, stuck: int) -> None:
        self.files = {b"%d" % number: file for number, file in enumerate(files)}
        self.total, self.others = total, others
        self.stuck = {b"%d" % number for number in range(stuck)}
        self.removed: list[tuple[int, bytes]] = []
        self.batches: list[int] = []

    def space(self) -> Space:
        used = self.others + sum(size for _, size in self.files.values())
        return Space(len(self.files), max(0, self.total - used), self.total)

    def oldest(self, most: int) -> Iterator[File]:
        files = ((mtime, name) for name, (mtime, _) in self.files.items())
        batch = list(choose_oldest(files, most, lambda: None))
        self.batches.append(len(batch))
        return iter(batch)

    def remove(self, file: File) -> Optional[int]:
        mtime, name = file
        if name in self.stuck:
            return None
        self.removed.append(file)
        found, size = self.files.pop(name)
        assert found == mtime
        return size


LIMITS = st.builds(Limits, max_files=st.integers(0, 20), batch=st.integers(1, 9))
FILES = st.lists(st.tuples(st.integers(-5, 30), st.integers(0, 40)), max_size=30)
DISKS = st.builds(Disk, FILES, st.integers(0, 1_000), st.integers(0, 1_000), st.just(0))


@given(LIMITS, DISKS)
def test_the_oldest_go_until_the_limits_are_met_and_no_file_more(limits: Limits, disk: Disk) -> None:
    """Invariant: this is what one would do by hand: sort all by age, and take away one after the other."""
    expected = sorted((mtime, name) for name, (mtime, _) in disk.files.items())
    sizes = {name: size for name, (_, size) in disk.files.items()}
    begun = disk.space()
    yielded = list(evict(limits, disk.space, disk.oldest, disk.remove))
    ages = [mtime for mtime, _ in disk.removed]
    assert yielded == [sizes[name] for _, name in disk.removed]
    assert ages == [mtime for mtime, _ in expected[: len(ages)]], "never a younger before an older one"
    assert all(1 <= size <= limits.batch for size in disk.batches[:-1])
    assert all(size <= limits.batch for size in disk.batches)
    assert len(disk.batches) <= len(ages) + 1
    needed = begun.count > limits.max_files or begun.free < 0.12 * begun.total
    assert bool(ages) == (needed and bool(expected))
    if ages:
        now = disk.space()
        met = now.count <= limits.max_files and (now.free > 0.13 * now.total or not now.total)
        assert met or not disk.files
        last = sizes[disk.removed[-1][1]]
        before = now.count + 1 <= limits.max_files and max(0, now.free - last) > 0.13 * now.total
        assert not before or disk.others > disk.total, "the last one had to go"


@given(LIMITS, FILES, st.integers(0, 30))
def test_what_cannot_be_removed_neither_stops_the_rest_nor_keeps_it_going(
    limits: Limits, files: list[tuple[int, int]], stuck: int
) -> None:
    disk = Disk(files, total=1_000, others=1_000, stuck=stuck)
    list(evict(limits, disk.space, disk.oldest, disk.remove))
    assert len(disk.batches) <= len(files) + 1
    if stuck < limits.batch:
        assert set(disk.files) <= disk.stuck


@pytest.mark.parametrize(
    ("count", "free", "begins", "met"),
    [
        (1_000_000, 12, False, False),
        (1_000_000, 13, False, False),
        (1_000_000, 14, False, True),
        (1_000_001, 14, True, False),
        (1_000_001, 99, True, False),
        (5, 11, True, False),
        (0, 0, True, False),
    ],
)
def test_the_thresholds(count: int, free: int, begins: bool, met: bool) -> None:
    """CH-3, in its numbers."""
    limits, space = Limits(), Space(count, free, 100)
    assert (limits.begins(space), limits.met(space)) == (begins, met)


def test_a_disk_that_does_not_tell_its_size_is_never_full() -> None:
    assert not Limits().begins(Space(1_000_000, 0, 0))
    assert Limits().met(Space(1_000_000, 0, 0))


@given(st.lists(st.integers(-(1 << 66), 1 << 66), max_size=50), st.integers(1, 60))
def test_the_oldest_are_chosen_whatever_their_time(times: list[int], most: int) -> None:
    files = [(mtime, b"%03d" % number) for number, mtime in enumerate(times)]
    chosen = list(choose_oldest(iter(files), most, lambda: None))
    assert [mtime for mtime, _ in chosen] == sorted(times)[:most]
    assert set(chosen) <= set(files)
    assert len(set(chosen)) == len(chosen)


def test_choosing_among_many_takes_little_memory() -> None:
    """CH-3: 64 MiB for a million files and batches of a hundred thousand; here a tenth of both."""
    names = [b"%0128d" % number for number in range(1_000)]
    files = ((number * 7_919 % 100_000, names[number % 1_000] + b"") for number in range(100_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in choose_oldest(files, 10_000, lambda: None)) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


# ---- The pass (CH-3)

EVERYTHING = Limits(max_files=0, low_free=0, high_free=0)


def fill(folder: Folder, count: int) -> list[Folder]:
    """Pairs, the oldest first; nothing in their names or in the order of the disk tells which."""
    files = [Folder(folder.path, f"{number}") for number in range(count)]
    for number, file in enumerate(files):
        put(folder.cache, OLD, f"{number}")
        age(file.content, (count - number) * MINUTE_NS)
    return files


def kept(files: Sequence[Folder]) -> list[int]:
    return [number for number, file in enumerate(files) if file.content.exists() and file.headers.exists()]


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_least_recently_stored_copies_go(folder: Folder, batch: int) -> None:
    files = fill(folder, 30)
    disk = sum(file.content.stat().st_blocks * 512 for file in files[:20])
    report = Housekeeping(folder.cache).tidy(Limits(max_files=10, low_free=0, high_free=0, batch=batch))
    assert kept(files) == list(range(20, 30))
    assert len(folder.files()) == 20
    assert (report.count, report.deleted, report.reclaimed) == (10, 20, disk)
    assert 0 < report.free < 1


class Volume:
    """What statvfs(2) tells of a disk that holds a number of these files, and `others` besides."""

    f_frsize = 4096

    def __init__(self, folder: Folder, size: int, others: Callable[[], int]) -> None:
        self.folder, self.f_blocks, self.others = folder, size, others

    @property
    def f_bavail(self) -> int:
        return max(0, self.f_blocks - self.others() - len(list(self.folder.path.glob("*/*.content"))))


def test_a_disk_that_runs_full_is_freed_a_little_more_than_it_must_be(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fill(folder, 20)
    others = 68
    monkeypatch.setattr(os, "statvfs", lambda path: Volume(folder, 100, lambda: others))
    housekeeping = Housekeeping(folder.cache)
    assert housekeeping.tidy(Limits(batch=3)) == Report(0.12, 20, 0, 0)
    others = 69
    assert housekeeping.tidy(Limits(batch=3)).deleted == 3
    assert kept(files) == list(range(3, 20))
    assert housekeeping.tidy(Limits(batch=3)).deleted == 0


def test_a_pass_ends_when_nothing_is_left(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program fills the disk as fast as we free it."""
    fill(folder, 10)
    monkeypatch.setattr(os, "statvfs", lambda path: Volume(folder, 100, lambda: 100))
    housekeeping = Housekeeping(folder.cache)
    report = housekeeping.tidy(Limits(batch=3))
    assert (report.free, report.count, report.deleted) == (0, 0, 10)
    assert housekeeping.tidy(Limits(batch=3)).deleted == 0


def test_a_copy_that_is_renewed_meanwhile_stays(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fill(folder, 6)
    choose = eviction.choose_oldest

    def choose_and_renew(*arguments: Any) -> Iterator[File]:
        chosen = list(choose(*arguments))
        put(folder.cache, NEW, "1")
        return iter(chosen)

    monkeypatch.setattr(eviction, "choose_oldest", choose_and_renew)
    report = Housekeeping(folder.cache).tidy(Limits(max_files=3, low_free=0, high_free=0))
    assert report.deleted == 3
    assert kept(files) == [1, 4, 5]
    assert get(folder.cache, "1") == NEW


def test_a_steady_state_costs_no_walk(folder: Folder, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("kcistorage_parts.eviction.time.monotonic", lambda: now)
    housekeeping = Housekeeping(folder.cache)
    put(folder.cache, OLD)
    housekeeping.recover()
    put(Cache(str(folder.path)), OLD, "of another process")
    for _ in range(12):
        system.take_names()
        assert housekeeping.tidy(Limits(low_free=0)).count == 1
        assert set(system.take_names()) == {"statvfs"}
        now += 299
    now += 300
    assert housekeeping.tidy(Limits(low_free=0)).count == 2
    assert "lstat" not in system.take_names()


def test_the_first_pass_counts_where_the_start_was_cut_short(folder: Folder) -> None:
    fill(folder, 3)
    cache = Cache(str(folder.path))
    assert Housekeeping(cache).tidy(Limits(low_free=0)).count == cache.count == 3


def test_what_cannot_be_deleted_is_passed_over(folder: Folder, system: System) -> None:
    files = fill(folder, 4)

    def refuse(name: str) -> None:
        if name == "unlink" and system.calls[-1][1] == str(files[0].content):
            raise PermissionError(errno.EPERM, "immutable")

    system.before = refuse
    assert Housekeeping(folder.cache).tidy(EVERYTHING).deleted == 3
    assert kept(files) == [0]


@pytest.mark.parametrize("act", ["recover", "tidy"])
def test_a_long_pass_ends_when_the_server_does(
    folder: Folder, system: System, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even on a disk that takes its time."""
    fill(folder, 60)
    end, begun = threading.Event(), time.monotonic()
    system.before = lambda name: threading.Event().wait(0.02) if name in ("lstat", "scandir", "unlink") else None
    housekeeping = Housekeeping(folder.cache, end.is_set)
    thread = threading.Thread(
        target=housekeeping.recover if act == "recover" else lambda: housekeeping.tidy(EVERYTHING)
    )
    thread.start()
    end.wait(0.1)
    end.set()
    thread.join(0.2)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 1
    assert len(folder.files()) > 60


def test_a_folder_that_is_gone_is_an_error_of_the_pass(folder: Folder) -> None:
    housekeeping = Housekeeping(folder.cache)
    shutil.rmtree(folder.path)
    housekeeping.recover()
    with pytest.raises(FileNotFoundError):
        housekeeping.tidy(Limits())
