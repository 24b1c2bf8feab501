"""Copies of a cloud's objects as plain files: opened in microseconds, each there whole or not at all (CH-1, CH-2).

    <folder>/ab/<sha512 of the key, hex>.content    the bytes; mtime: when they were stored here
    <folder>/ab/<sha512 of the key, hex>.headers    what is known of them; mtime: when that was last known to be current
    <folder>/uploads/<random>[.headers]             copies in the making, flocked while their process lives

Headers end with the size and the mtime, in nanoseconds, of the content they belong to, and a content counts only with
such headers beside it. So a pair appears, and goes, in two steps that look like one: headers, then content, are renamed
into place; content, then headers, are deleted. A crash between the two, a reader between the two, and whatever somebody
else put there, are a miss. Nothing is synced to the disk: the cloud has it all. What a crash of ours leaves is as the
kernel was told, and what may not survive a loss of power, `eviction.py` sorts out by age.

Any thread may call, and other processes may use the same folder. Files may go at any time; what is open stays good.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import threading
import time
from typing import Callable, NamedTuple, Optional

from kcistorage_parts.files import NewFile, write_all

CONTENT, HEADERS = b".content", b".headers"
SHARDS = 256
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW  # no fifo hangs us, no link leads out of the folder
MAX_HEADERS = 16_384  # bytes of them that are read. Measured: a buffer of 128 KiB costs 24 us
LINES = re.compile(r"content-type:(.*)\netag:(.*)\nmodified:(\d{1,11})\nkey:(.*)\n(size:.*\nmtime:.*\n)", re.ASCII)
LOOKS = 3  # at a pair that is being replaced
MOST_KNOWN = 4_096  # headers in memory, some 4 MB


class Entry(NamedTuple):
    """A copy opened for reading; the caller closes the descriptor."""

    descriptor: int
    size: int  # bytes
    etag: str
    modified: int  # seconds since the epoch, as `checked`
    content_type: str
    checked: float  # when it was last known to be current


class Known(NamedTuple):
    """Headers in memory. They are good for the content that is this very file."""

    identity: tuple[int, int, int]
    stem: bytes
    entry: Entry


def name_of(key: str) -> bytes:
    return hashlib.sha512(key.encode()).hexdigest().encode()


def identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def pair_lines(content: os.stat_result) -> str:
    """What headers share with their content and with no other."""
    return f"size:{content.st_size}\nmtime:{content.st_mtime_ns}\n"


def status_of(path: bytes) -> Optional[os.stat_result]:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def write_headers(path: bytes, key: str, entry: Entry, content: os.stat_result) -> None:
    """A value with a line break in it makes headers that no reader takes."""
    lines = f"content-type:{entry.content_type}\netag:{entry.etag}\nmodified:{entry.modified}\nkey:{key}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_all(descriptor, (lines + pair_lines(content)).encode("utf-8", "surrogateescape"))
    finally:
        os.close(descriptor)


def read_headers(descriptor: int, key: str, content: Optional[os.stat_result] = None) -> Optional[Entry]:
    """What headers tell; None where they are not whole, or of another key or another content than the one given."""
    text = os.read(descriptor, MAX_HEADERS).decode("utf-8", "surrogateescape")
    found = LINES.fullmatch(text)
    if found is None or found[4] not in (key, "") or (content and found[5] != pair_lines(content)):
        return None
    size = content.st_size if content else 0
    return Entry(-1, size, found[2], int(found[3]), found[1], os.fstat(descriptor).st_mtime)


class Copy:
    """A copy in the making. One thread publishes and closes it; until then any may read and write the descriptor."""

    def __init__(self, uploads: bytes, place: Callable[[bytes, bytes, bytes, os.stat_result], None]) -> None:
        self._place, self._file = place, NewFile(uploads)
        self.descriptor, self.write = self._file.descriptor, self._file.write

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def publish(self, key: str, size: int, etag: str, modified: int, content_type: str) -> None:
        """Makes this the copy of `key`, at once and whole. Whoever writes to the descriptor later spoils the copy.

        Raises OSError, EIO if there are not `size` bytes; then there is no copy, or the one before: see `Cache.drop`.
        """
        now = time.time_ns()  # our clock: the kernel's stamps tick every 4 ms, in which two copies may be made
        os.utime(self.descriptor, ns=(now, now))
        status = os.fstat(self.descriptor)
        if status.st_size != size:
            raise OSError(errno.EIO, f"a copy of {size} bytes has {status.st_size}")
        path = self._file.path
        write_headers(path + HEADERS, key, Entry(-1, size, etag, modified, content_type, 0.0), status)
        self._place(path, path + HEADERS, name_of(key), status)
        self._file.kept = True

    def close(self) -> None:
        """Discards what was not published. What a disk that became read-only keeps is a leftover for the next start."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            if not self._file.kept:
                with contextlib.suppress(OSError):
                    os.unlink(self._file.path + HEADERS)
            with contextlib.suppress(OSError):
                self._file.close()


class Cache:
    """The copies in one folder."""

    def __init__(self, folder: str) -> None:
        """Makes the folder, and looks at nothing in it. Raises OSError."""
        self.folder = os.path.join(os.path.abspath(os.fsencode(folder)), b"")  # these end in a slash: joined by +
        self.uploads = self.folder + b"uploads/"
        self.unsure = range(0)  # mtimes, in nanoseconds, of contents that a loss of power may have spoilt
        self._counts, self._changes = [0] * SHARDS, [0] * SHARDS
        self._locks = [threading.Lock() for _ in range(SHARDS)]  # for changes of names in a shard, and of these numbers
        self._known: dict[str, Known] = {}
        self._known_lock = threading.Lock()
        os.makedirs(self.uploads, exist_ok=True)

    @property
    def count(self) -> int:
        """How many `*.content` there are: as found by the last walk, and what this process did since."""
        return sum(self._counts)

    def open(self, key: str) -> Optional[Entry]:
        """The copy, or None: also where it is damaged or cannot be read.

        Measured: 6 us and two system calls where the headers are in memory, else 20 us and six. (Each call lets go of
        the GIL, and getting it back is what costs a busy server.)
        """
        known = self._known.get(key)
        stem = known.stem if known is not None else self.stem(name_of(key))
        for _ in range(LOOKS):
            try:
                descriptor = os.open(stem + CONTENT, READ)
            except OSError:
                return None
            try:
                status = os.fstat(descriptor)
                if known is None or known.identity != identity(status):
                    known = self._learn(key, stem, status)
            except OSError:
                known = None
            if known is not None:
                return Entry(descriptor, *known.entry[1:])
            os.close(descriptor)
        return None

    def _learn(self, key: str, stem: bytes, content: os.stat_result) -> Optional[Known]:
        """The headers of this content, where they lie beside it; from now on they are in memory."""
        if not stat.S_ISREG(content.st_mode) or content.st_mtime_ns in self.unsure:
            return None
        descriptor = os.open(stem + HEADERS, READ)
        try:
            entry = read_headers(descriptor, key, content)
        finally:
            os.close(descriptor)
        if entry is None:
            return None
        known = Known(identity(content), stem, entry)
        self._keep(key, known)
        return known

    def _keep(self, key: str, known: Known) -> None:
        with self._known_lock:
            self._known[key] = known
            if len(self._known) > MOST_KNOWN:
                del self._known[next(iter(self._known))]

    def touch(self, key: str, etag: str) -> None:
        """Notes that the copy with this ETag is current now. Where that cannot be noted, it is only asked for again."""
        known, now = self._known.get(key), time.time()
        if known is not None and known.entry.etag == etag:
            self._keep(key, known._replace(entry=known.entry._replace(checked=now)))
        with contextlib.suppress(OSError):
            descriptor = os.open(self.stem(name_of(key)) + HEADERS, READ)
            try:
                entry = read_headers(descriptor, key)
                if entry is not None and entry.etag == etag:
                    os.utime(descriptor, (now, now))
            finally:
                os.close(descriptor)

    def create(self) -> Copy:
        """A copy to fill. Raises OSError: no room, a read-only disk, too many open files."""
        try:
            return Copy(self.uploads, self._place)
        except FileNotFoundError:  # somebody emptied the folder
            os.makedirs(self.uploads, exist_ok=True)
            return Copy(self.uploads, self._place)

    def _place(self, content: bytes, headers: bytes, name: bytes, status: os.stat_result) -> None:
        """Renames a pair into place. A failure leaves none there, not even the one before, for that is outdated."""
        stem = self.stem(name)
        with self.lock(name):
            try:
                before = status_of(stem + CONTENT)
                if before is not None and pair_lines(before) == pair_lines(status):  # the disk has a coarse clock
                    self.unlink(name)
                    before = None
                try:
                    os.rename(headers, stem + HEADERS)
                except FileNotFoundError:  # the first one in this shard
                    os.makedirs(os.path.dirname(stem), exist_ok=True)
                    os.rename(headers, stem + HEADERS)
                os.rename(content, stem + CONTENT)
                self._changed(name, before is None)
            except BaseException:
                with contextlib.suppress(OSError):  # what went wrong first is what counts
                    self.unlink(name)
                raise

    def drop(self, key: str) -> None:
        """Deletes the copy. Raises OSError where it may still be there: a read-only disk, a disk that fails."""
        name = name_of(key)
        with self.lock(name):
            self.unlink(name)

    # What follows is for the housekeeping; a name is the hexadecimal digest.

    def stem(self, name: bytes) -> bytes:
        return self.folder + name[:2] + b"/" + name

    def lock(self, name: bytes) -> threading.Lock:
        """Held, nothing of this process comes to the name or leaves it."""
        return self._locks[int(name[:2], 16)]

    def unlink(self, name: bytes) -> None:
        """Deletes what there is of a pair. The caller holds the lock."""
        stem = self.stem(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(stem + CONTENT)
            self._changed(name, -1)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(stem + HEADERS)

    def adopt(self, path: bytes, name: bytes, etag: str, modified: int, content_type: str, checked: float) -> None:
        """Makes a file on this disk a copy of whatever key has this name; it keeps its mtime. Raises OSError."""
        headers, status = self.uploads + name + HEADERS, os.lstat(path)
        write_headers(headers, "", Entry(-1, 0, etag, modified, content_type, 0.0), status)
        os.utime(headers, (checked, checked))
        self._place(path, headers, name, status)

    def _changed(self, name: bytes, more: int) -> None:
        shard = int(name[:2], 16)
        self._counts[shard] += more
        self._changes[shard] += 1

    def changes(self, shard: int) -> int:
        """How often something came to the shard or left it."""
        return self._changes[shard]

    def set_count(self, shard: int, count: int, changes: int) -> bool:
        """Takes what a walk found, unless the shard is not any more as it was after so many changes."""
        with self._locks[shard]:
            if self._changes[shard] == changes:
                self._counts[shard] = count
            return self._changes[shard] == changes
