"""The housekeeping of the copies on disk: which are deleted, and when (CH-3); what crashes and old layouts left (CH-1).

`Limits` decides, `evict` carries it out on whatever can be counted, ordered and removed, and `Housekeeping` does it to
the files of a cache, in long passes that leave the disk and the GIL to the requests. A steady state costs a statvfs(2)
a pass, and every hour a listing of names, which sets the count right. Each batch of deletions costs one walk that looks
at the mtime of every content, and 20 MB for 100,000 files.

Loss of power: copies are not synced to the disk, so one may come back with its size, its mtime, and holes for bytes.
The file `boot` notes in which boot of the machine we were here and, by its mtime, until when. Once that was another
boot, copies are dropped that were stored later than ten minutes before: all others the kernel had written out. An
orderly restart costs these as well. Without a boot id, which is without Linux, none is dropped.

Old layouts had their files directly in the folder. A pair moves over whose headers name an ETag, when the object was
modified, and the very size that the content has; kernelci-storage kept the header fields of an HTTP answer there. It
keeps its age, and the time of its validation. What has a copy already, and any other `.content` and `.headers` with the
name of a digest, is deleted there. Files of other names are nobody's business, here as in all of the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import fcntl
import heapq
import math
import os
import re
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Callable, Optional, Protocol

CONTENT, HEADERS = b".content", b".headers"
NAME = re.compile(rb"([0-9a-f]{128})(\.content|\.headers)")
SHARDS = 256
LOOKS = 3  # at a shard that changes meanwhile
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
MAX_HEADERS = 65_536  # bytes
BOOT_ID = b"/proc/sys/kernel/random/boot_id"
SETTLED_NS = 600 * 10**9  # Linux writes out what is older than 30 s (dirty_expire_centisecs), a slow disk later
COUNT_SECONDS = 3_600.0  # between two counts of all files
SLICE = 0.0005  # seconds of work at a time
REST = 2.0  # times as long a rest after it
LONGEST_REST = 0.05  # seconds
MOST_AT_ONCE = 200_000  # files that one walk chooses, at 180 bytes each, whatever the size of a batch
FAR = 1 << 71  # nanoseconds: beyond the time of any file


# ---- The rule


@dataclasses.dataclass(frozen=True)
class Space:
    """What the rule goes by."""

    count: int  # *.content files
    free: int  # bytes, as `total`, which is 0 where the file system does not tell
    total: int


@dataclasses.dataclass(frozen=True)
class Limits:
    """When to begin to delete, when to end, and how much to take on at once (CH-3)."""

    max_files: int = 1_000_000
    low_free: float = 0.12  # share of the disk, as `high_free`: between the two nothing begins and nothing ends
    high_free: float = 0.13
    batch: int = 100_000  # files

    def begins(self, now: Space) -> bool:
        return now.count > self.max_files or now.free < self.low_free * now.total

    def roomy(self, now: Space) -> bool:
        return not now.total or now.free > self.high_free * now.total

    def met(self, now: Space) -> bool:
        return now.count <= self.max_files and self.roomy(now)

    def most(self, now: Space) -> int:
        """How many files the next batch may have."""
        return min(self.batch, MOST_AT_ONCE, now.count - self.max_files if self.roomy(now) else self.batch)


File = tuple[int, bytes]  # mtime in nanoseconds, name


def evict(
    limits: Limits,
    space: Callable[[], Space],
    oldest: Callable[[int], Iterable[File]],
    remove: Callable[[File], Optional[int]],
) -> Iterator[int]:
    """Removes the oldest files, batch by batch, until the limits are met; yields the bytes that each gave back.

    `remove` tells None for a file that it left. A batch of none but these is the last one: the next would be the same.
    And where another program uses up the disk as fast as we free it, all files go, and that is the end.
    """
    going_on = limits.begins(space())
    while going_on and not limits.met(space()):
        going_on = False
        for file in oldest(limits.most(space())):
            if limits.met(space()):
                return
            size = remove(file)
            if size is not None:
                going_on = True
                yield size


def choose_oldest(files: Iterable[File], most: int, pace: Callable[[], None]) -> Iterator[File]:
    """The `most` oldest files, the oldest first. One `bytes` a file: tuples would take three times the memory."""
    heap: list[bytes] = []  # the youngest is at its top
    for mtime, name in files:
        item = (FAR - mtime).to_bytes(9, "big") + name
        if len(heap) < most:
            heapq.heappush(heap, item)
        else:
            heapq.heappushpop(heap, item)
    order: list[bytes] = []
    while heap:  # step by step, for one sort of them all would hold the GIL for a tenth of a second
        pace()
        order.append(heapq.heappop(heap))
    while order:
        item = order.pop()
        yield FAR - int.from_bytes(item[:9], "big"), item[9:]


# ---- The passes


class Stopped(Exception):
    """The server ends, and a long task with it."""


class Pace:
    """Called at each step of a long task: lets it work for a short while, then rest, so that no request waits for it.

    Raises Stopped within 0.1 s after `stopping` is true. Measured (bench/evict.py): during a pass the p99 of GETs is
    1.3 times its idle value, without the rests 4.4 times, and the pass takes a third of the time.
    """

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping, self._begun = stopping, time.perf_counter()

    def __call__(self) -> None:
        worked = time.perf_counter() - self._begun
        if worked >= SLICE:
            if self._stopping():
                raise Stopped
            time.sleep(min(worked * REST, LONGEST_REST))
            self._begun = time.perf_counter()


class Copies(Protocol):
    """What the housekeeping asks of `cache.Cache`, where it is explained."""

    folder: bytes
    uploads: bytes
    unsure: range

    @property
    def count(self) -> int: ...
    def changes(self, shard: int) -> int: ...
    def set_count(self, shard: int, count: int, changes: int) -> bool: ...
    def stem(self, name: bytes) -> bytes: ...
    def lock(self, name: bytes) -> threading.Lock: ...
    def unlink(self, name: bytes) -> None: ...
    def adopt(self, path: bytes, name: bytes, etag: str, modified: int, content_type: str, checked: float) -> None: ...


@dataclasses.dataclass(frozen=True)
class Report:
    """Of one pass."""

    free: float  # share of the disk
    count: int  # files in the cache
    deleted: int
    reclaimed: int  # bytes on disk


Facts = tuple[str, int, str, float]  # ETag, modified, content type, last known to be current: seconds since the epoch


def read_start(path: bytes) -> tuple[str, os.stat_result]:
    """The text of a small file, in which any byte may be."""
    descriptor = os.open(path, READ)
    try:
        return os.read(descriptor, MAX_HEADERS).decode("utf-8", "surrogateescape"), os.fstat(descriptor)
    finally:
        os.close(descriptor)


def old_facts(text: str, headers: os.stat_result, content: os.stat_result) -> Optional[Facts]:
    """What headers of an old layout tell of this content; None where it is too little, or of another one."""
    parts = [line.partition(":") for line in text.split("\n")]
    lines = {name.strip().lower(): value.strip() for name, _, value in parts}
    etag, size = lines.get("etag", ""), lines.get("content-length", lines.get("size"))
    if not etag.startswith('"') or size != f"{content.st_size}" or not stat.S_ISREG(content.st_mode):
        return None
    if lines.get("mtime", f"{content.st_mtime_ns}") != f"{content.st_mtime_ns}":
        return None
    try:
        date = email.utils.parsedate_tz(lines.get("last-modified", ""))
        modified = email.utils.mktime_tz(date) if date else int(lines.get("modified", ""))
    except (ValueError, OverflowError):
        return None
    return etag, modified, lines.get("content-type", ""), headers.st_mtime


def remove_leftover(upload: bytes) -> None:
    """Of a dead process: a living one has it locked. Headers without their file are nobody's."""
    with contextlib.suppress(OSError):
        if os.path.lexists(upload):
            descriptor = os.open(upload, READ)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(upload)
            finally:
                os.close(descriptor)
        os.unlink(upload + HEADERS)


class Housekeeping:
    """The passes over one cache. One thread calls them; made before the first copy is opened.

    They end early, within 0.2 s, once `stopping` is true. What cannot be moved or deleted is passed over.
    """

    def __init__(self, cache: Copies, stopping: Callable[[], bool] = lambda: False) -> None:
        self._cache, self._stopping, self._pace = cache, stopping, Pace(stopping)
        self._counted = -math.inf  # when
        self._boot, self._marker = "", cache.folder + b"boot"
        with contextlib.suppress(OSError):
            self._boot = read_start(BOOT_ID)[0]
            last, status = read_start(self._marker)
            if last != self._boot:
                cache.unsure = range(status.st_mtime_ns - SETTLED_NS, time.time_ns())

    def recover(self) -> None:
        """For the start: removes what crashes left, moves old layouts over, counts (CH-1)."""
        self._pace = Pace(self._stopping)
        with contextlib.suppress(Stopped):
            for name in self._listed(self._cache.uploads):
                remove_leftover(self._cache.uploads + name.removesuffix(HEADERS))
            for name in self._listed(self._cache.folder):
                if NAME.fullmatch(name):
                    self._adopt(name[:128])
            if self._cache.unsure:
                self._remove_unsure()
            else:
                self._count()
            self._cache.unsure = range(0)
        self._mark()

    def tidy(self, limits: Limits) -> Report:
        """For every five minutes: deletes the least recently stored copies if the limits ask for it (CH-3).

        Raises OSError where the folder is gone.
        """
        self._pace, deleted, reclaimed = Pace(self._stopping), 0, 0
        with contextlib.suppress(Stopped):
            if time.monotonic() - self._counted > COUNT_SECONDS:
                self._count()
            for size in evict(limits, self._space, self._oldest, self._remove):
                deleted, reclaimed = deleted + 1, reclaimed + size
        self._mark()
        now = self._space()
        return Report(now.free / now.total if now.total else 1.0, now.count, deleted, reclaimed)

    def _space(self) -> Space:
        disk = os.statvfs(self._cache.folder)
        return Space(self._cache.count, disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)

    def _mark(self) -> None:
        """Notes that the machine lives: what is older than SETTLED_NS is on the disk."""
        if self._boot and not self._cache.unsure:
            with contextlib.suppress(OSError), open(self._marker, "w") as file:
                file.write(self._boot)

    def _listed(self, folder: bytes) -> Iterator[bytes]:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                self._pace()
                yield entry.name

    def _shard(self, shard: int) -> dict[bytes, set[bytes]]:
        """The names that have a content, and those that have headers."""
        found: dict[bytes, set[bytes]] = {CONTENT: set(), HEADERS: set()}
        for name in self._listed(self._cache.folder + b"%02x" % shard):
            if NAME.fullmatch(name) and int(name[:2], 16) == shard:
                found[name[128:]].add(name[:128])
        return found

    def _names(self) -> Iterator[bytes]:
        """Of all pairs. On the way, what has lost its other half is removed and the count set right."""
        for shard in range(SHARDS):
            for _ in range(LOOKS):
                changes = self._cache.changes(shard)
                found = self._shard(shard)
                if self._cache.set_count(shard, len(found[CONTENT]), changes):
                    break
            for name in found[CONTENT] ^ found[HEADERS]:
                self._remove_half(name)
            yield from found[CONTENT] & found[HEADERS]
        self._counted = time.monotonic()

    def _count(self) -> None:
        for _ in self._names():
            continue

    def _files(self) -> Iterator[File]:
        for name in self._names():
            self._pace()
            with contextlib.suppress(OSError):
                yield os.lstat(self._cache.stem(name) + CONTENT).st_mtime_ns, name

    def _oldest(self, most: int) -> Iterator[File]:
        return choose_oldest(self._files(), most, self._pace)

    def _remove(self, file: File) -> Optional[int]:
        """Deletes a pair unless it was replaced since, and tells the bytes on disk. A reader keeps what it has open."""
        self._pace()
        mtime, name = file
        with contextlib.suppress(OSError), self._cache.lock(name):
            status = os.lstat(self._cache.stem(name) + CONTENT)
            if status.st_mtime_ns == mtime:
                self._cache.unlink(name)
                return status.st_blocks * 512
        return None

    def _remove_half(self, name: bytes) -> None:
        stem = self._cache.stem(name)
        with contextlib.suppress(OSError), self._cache.lock(name):
            if os.path.lexists(stem + CONTENT) != os.path.lexists(stem + HEADERS):
                self._cache.unlink(name)

    def _remove_unsure(self) -> None:
        for file in self._files():
            if file[0] in self._cache.unsure:
                self._remove(file)

    def _adopt(self, name: bytes) -> None:
        """Moves a pair of an old layout over, or deletes what there is of it."""
        old = self._cache.folder + name
        with contextlib.suppress(OSError):
            facts = old_facts(*read_start(old + HEADERS), os.lstat(old + CONTENT))
            if facts is not None and not os.path.lexists(self._cache.stem(name) + CONTENT):
                self._cache.adopt(old + CONTENT, name, *facts)
        for suffix in (CONTENT, HEADERS):
            with contextlib.suppress(OSError):
                os.unlink(old + suffix)
