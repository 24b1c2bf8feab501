"""Objects as plain files under one folder: atomic, durable, shared by several server processes (UP-8, UP-12).

What `ls` shows is what is served. Stands on `files.py`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import heapq
import itertools
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Callable, NamedTuple, Optional

from kcistorage_parts.files import (
    SETTLED_NS,
    Identity,
    NewFile,
    identity,
    make_folders,
    missing_folders,
    remove_leftovers,
    same_file,
    sync_folder,
    write_all,
)

NO_OBJECT = frozenset([errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO])
# A folder that was removed while we came to it, is somebody else's (lost+found) or too deep for any key.
UNLISTED = frozenset([errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG])
LINE_BREAK = re.compile(r"[\r\n]")
PRIVATE = ".metadata"  # the one name at the top of the storage that is ours
OWN = PRIVATE.encode() + b"/"
SORTED_IN_MEMORY = 50_000  # names of one folder (some 5 MB); above it runs are sorted on disk and merged
SMALL_OBJECT = 16_384  # bytes; device trees and short logs, which are most of what is asked for
SMALL_OBJECTS = 8 << 20  # bytes of them kept in memory
SMALL_OBJECT_EXTRA = 1_024  # bytes that an entry takes besides its content, however small that is
MAX_SIDECAR = 131_072  # bytes; a request head, where most of it comes from, has 65,536
DAY = 86_400  # seconds

Tags = Sequence[tuple[str, str]]


def entity_tag(status: os.stat_result) -> str:
    """A strong validator (RFC 9110 8.8.3): a commit sets the time in nanoseconds, so no two versions share it."""
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


def read_file(path: bytes, most: int) -> bytes:
    """What a file begins with; b"" where there is no regular file. Measured: 2 us for none; Python's open() takes 9."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a fifo must not hang us
        try:
            return os.read(descriptor, most)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in NO_OBJECT:
            return b""
        raise


def read_sidecar(path: bytes) -> dict[str, str]:
    """The `name:value` lines of a sidecar, {} where there is none. Whatever else is in there is passed over."""
    lines = [line.partition(":") for line in read_file(path, MAX_SIDECAR).decode("utf-8", "replace").split("\n")]
    return {name.strip().lower(): value.strip() for name, colon, value in lines if colon}


def write_sidecar(descriptor: int, content_type: str, tags: Tags, etag: str) -> None:
    """The ETag comes last: a sidecar that has it is whole. No value can make a second line."""
    lines = [("content-type", content_type), *((f"tag-{name}", value) for name, value in tags), ("etag", etag)]
    text = "".join(f"{name}:{LINE_BREAK.sub('_', value)}\n" for name, value in lines)
    write_all(descriptor, text.encode("utf-8", "replace"))
    os.fsync(descriptor)


def remove_folders(folders: Sequence[bytes]) -> bool:
    """Removes folders, the outermost first in the list, up to one that is not empty; says whether all are gone."""
    try:
        for folder in reversed(folders):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(folder)
    except OSError:  # another upload has moved in
        return False
    return True


def remove_hollow(path: bytes) -> bool:
    """Removes a folder in which there are only folders, as crashed uploads leave them; says whether it is gone."""
    folders = [path]
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    return False
                folders.append(entry.path)
    return remove_folders(folders)


def refuse_conflict(path: bytes) -> None:
    """Raises EISDIR where a folder with an object in it has the name that an object shall have (UP-4).

    ENOTDIR, for the reverse, comes from stat(2) itself.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(path).st_mode) and not remove_hollow(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def move_in(upload: bytes, target: bytes, more_attempts: int = 10) -> None:
    """Renames an upload to its name, in folders that are made where they are missing. A failure leaves none of them."""
    missing = missing_folders(os.path.dirname(target))
    try:
        refuse_conflict(target)
        make_folders(missing)
        return os.rename(upload, target)
    except BaseException as error:
        remove_folders(missing)
        if not more_attempts or not isinstance(error, FileNotFoundError):
            raise
    return move_in(upload, target, more_attempts - 1)  # another upload, which failed, took its folders away again


def unlink_version(path: bytes, etag: str) -> bool:
    """Removes a file, durably, if it has this ETag; says whether it did."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        # Before the file goes: once it is gone, somebody else may remove the folder, and nothing is left to sync.
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if entity_tag(os.stat(path)) == etag:
                os.unlink(path)
                os.fsync(folder)
                return True
        finally:
            os.close(folder)
    return False


def is_file(entry: os.DirEntry[bytes]) -> bool:
    """Whether there is a regular file at the end of all symbolic links; a loop of them has none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def spilled(file: IO[bytes]) -> Iterator[bytes]:
    """The names of a run on disk; a NUL ends each, the one byte that no file name has."""
    file.seek(0)
    rest = b""
    with file:
        while block := file.read(16_384):
            *whole, rest = (rest + block).split(b"\0")
            yield from whole


def sorted_names(names_of_folder: Iterator[bytes]) -> Iterator[bytes]:
    """Sorts in bounded memory: runs of SORTED_IN_MEMORY names, on disk when there are several (LS-1)."""
    runs: list[Iterable[bytes]] = []
    while run := sorted(itertools.islice(names_of_folder, SORTED_IN_MEMORY)):
        if not runs and len(run) < SORTED_IN_MEMORY:
            return iter(run)
        file = tempfile.TemporaryFile()  # noqa: SIM115, `spilled` closes it
        file.writelines(name + b"\0" for name in run)
        runs.append(spilled(file))
    return heapq.merge(*runs)


class Stored(NamedTuple):
    """An object opened for reading: `content`, or where that is None a `descriptor` for the caller to close."""

    descriptor: int
    content: Optional[bytes]
    size: int  # bytes
    etag: str
    modified: int  # seconds since the epoch
    content_type: str  # "" where nobody said
    state: str = "cached"

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """Nothing: all there is can be had at once."""
        return iter(())


REPLACED = Stored(-1, None, 0, "", 0, "")  # what was opened is not the object any more: open it again


class SmallObjects:
    """Small objects in memory, the least recently stored leave first. Any thread may call.

    Each is good only for the very file it was read from, which one stat(2) tells: a third of the system calls, and so
    of the GIL's changes of hands. Measured: 4 KiB downloads on 16 connections gain a quarter.
    """

    def __init__(self) -> None:
        self._objects: dict[str, tuple[Identity, Stored]] = {}
        self._lock = threading.Lock()
        self._bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._objects

    def get(self, key: str, status: os.stat_result) -> Optional[Stored]:
        found = self._objects.get(key)
        return found[1] if found is not None and found[0] == identity(status) else None

    def put(self, key: str, status: os.stat_result, stored: Stored) -> None:
        if time.time_ns() - status.st_ctime_ns < SETTLED_NS:
            return
        with self._lock:
            self._drop(key)
            self._objects[key] = identity(status), stored
            self._bytes += stored.size + SMALL_OBJECT_EXTRA
            while self._bytes > SMALL_OBJECTS:
                self._drop(next(iter(self._objects)))

    def _drop(self, key: str) -> None:
        old = self._objects.pop(key, None)
        if old is not None:
            self._bytes -= old[1].size + SMALL_OBJECT_EXTRA


class Expired(NamedTuple):
    """An object that is past its time."""

    key: str
    etag: str  # of the version that is
    value: str  # of the tag that tells how long it is kept
    age_days: float


class LocalIncoming:
    """A file among the uploads. Closing discards what was not committed."""

    def __init__(self, folder: bytes, publish: Callable[[bytes, str, str, str, Tags], None]) -> None:
        self._publish, self._file = publish, NewFile(folder)
        self.write, self.close = self._file.write, self._file.close

    def commit(self, key: str, content_type: str, tags: Tags) -> str:
        """Makes the file the object `key`, at once and whole; it is on stable storage when this returns its ETag."""
        etag = entity_tag(self._file.settle(time.time_ns()))
        self._publish(self._file.path, key, etag, content_type, tags)
        self._file.kept = True
        return etag


class LocalDriver:
    """All objects of one folder on one file system. Any thread may call; of several committers of a key the last wins.

    Content sits at `<root>/<key>`, its metadata in `<root>/.metadata/<sha512 of the key>.headers` (UP-12). Two files
    cannot be renamed in one step, so a commit goes

        1  upload, fsync                    .metadata/uploads/<random>
        2  new sidecar, fsync               .metadata/<sha512>.next      (locked: one committer a key, across processes)
        3  rename upload -> <key>, fsync    the object is the new one from here on
        4  rename .next  -> .headers

    and each sidecar ends with the ETag of the content it belongs to. Readers take the sidecar whose ETag is the
    content's. A crash after 2 leaves a .next that belongs to nothing; after 3 one that is right beside a .headers that
    is not: readers see the true pair at any moment, and the next upload of the key tidies up. A loss of power is no
    worse: no step begins before the names that it builds on are on the disk.

    A deletion has .next locked too, and removes the content first: a crash leaves the object whole, or a sidecar that
    belongs to nothing.

    One that is not to `serve` only looks: it makes no folders, and leaves what dead uploads left.
    """

    def __init__(self, root: str, serve: bool = True) -> None:
        self._root = os.path.join(os.path.abspath(os.fsencode(root)), b"")  # these end in a slash: joined by +
        self._private = self._root + OWN
        self._uploads = self._private + b"uploads/"
        self._small = SmallObjects()
        if serve:
            make_folders(missing_folders(self._uploads[:-1]))
            remove_leftovers(self._uploads)

    def _path(self, key: str) -> bytes:
        return self._root + key.encode()

    def _sidecar(self, key: str) -> bytes:
        return self._private + hashlib.sha512(key.encode()).hexdigest().encode()

    def at_hand(self, key: str) -> Optional[Stored]:
        """A small object that was read before. Takes one stat(2), of a file whose inode the kernel has at hand too."""
        if key not in self._small:
            return None
        try:
            return self._small.get(key, os.stat(self._path(key)))
        except OSError:
            return None

    def open(self, key: str, bodiless: bool = False, start: int = 0) -> Optional[Stored]:
        """The object, or None where there is none."""
        small = self.at_hand(key)
        if small is not None:
            return small
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a fifo must not hang us
        except OSError as error:
            if error.errno in NO_OBJECT:
                return None
            raise
        try:
            stored = self._stored(key, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if stored is None or stored.descriptor < 0:
            os.close(descriptor)
        return self.open(key) if stored is REPLACED else stored

    def _stored(self, key: str, descriptor: int) -> Optional[Stored]:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        etag = entity_tag(status)
        lines = self.sidecar(key, etag)
        if lines.get("etag") != etag and not same_file(descriptor, self._path(key)):
            return REPLACED  # by another process, and the sidecar too: these lines may be the next version's
        content_type = lines.get("content-type", "")
        stored = Stored(descriptor, None, status.st_size, etag, int(status.st_mtime), content_type)
        if status.st_size <= SMALL_OBJECT:
            content = os.pread(descriptor, SMALL_OBJECT, 0)
            if identity(os.fstat(descriptor)) == identity(status) and len(content) == status.st_size:
                stored = stored._replace(descriptor=-1, content=content)
                self._small.put(key, status, stored)
        return stored

    def sidecar(self, key: str, etag: str) -> dict[str, str]:
        """The lines of the sidecar that belongs to the content with this ETag, {} where there is none.

        A .headers with another ETag or none counts when no better one is there: another tool wrote it, or somebody
        copied the content in by hand. One that is edited under a small object counts from the object's next change.
        """
        base = self._sidecar(key)
        for name in (b".headers", b".next", b".headers"):  # a committer elsewhere may rename between two looks
            lines = read_sidecar(base + name)
            if lines.get("etag") == etag:
                break
        return lines

    @contextlib.contextmanager
    def create(self, key: Optional[str], content_type: str = "", tags: Tags = ()) -> Iterator[LocalIncoming]:
        """A new object; leaving the block without a commit leaves no trace. `key` is None while it is not known yet."""
        if key is not None:
            refuse_conflict(self._path(key))  # before a body is read for nothing
        with contextlib.closing(LocalIncoming(self._uploads, self._publish)) as incoming:
            yield incoming

    def together(self, sizes: Mapping[str, int]) -> contextlib.AbstractContextManager[None]:
        """Nothing is gained: a disk brings together by itself what comes together."""
        return contextlib.nullcontext()

    def lease(self, key: str, seconds: float) -> contextlib.AbstractContextManager[bool]:
        """Nothing to wait for: of two servers on this folder, who commits last wins, and each object is whole."""
        return contextlib.nullcontext(True)

    def close(self) -> None:
        """Nothing is held between calls."""

    def _publish(self, upload: bytes, key: str, etag: str, content_type: str, tags: Tags) -> None:
        """Steps 2 to 4 of a commit; step 1 is done."""
        target, base = self._path(key), self._sidecar(key)
        with self._pending_sidecar(base, target) as sidecar:
            try:
                write_sidecar(sidecar, content_type, tags, etag)
                sync_folder(self._private)
                move_in(upload, target)
            except BaseException:
                with contextlib.suppress(OSError):  # what went wrong first is what counts
                    os.unlink(base + b".next")
                raise
            sync_folder(os.path.dirname(target))
            with contextlib.suppress(OSError):  # no room for the name: .next serves as well, and the object is stored
                os.rename(base + b".next", base + b".headers")

    @contextlib.contextmanager
    def _pending_sidecar(self, base: bytes, target: bytes) -> Iterator[int]:
        """An empty .next of ours alone. One that a crash left after step 3 becomes .headers first, as in step 4."""
        path = base + b".next"
        while True:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not same_file(descriptor, path):  # renamed by the committer we waited for
                    continue
                if self._belongs(path, target):
                    sync_folder(os.path.dirname(target))
                    os.rename(path, base + b".headers")
                    continue
                os.ftruncate(descriptor, 0)
                yield descriptor
                return
            finally:
                os.close(descriptor)

    @staticmethod
    def _belongs(sidecar: bytes, target: bytes) -> bool:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return read_sidecar(sidecar).get("etag") == entity_tag(os.stat(target))
        return False

    def delete(self, key: str, etag: str) -> bool:
        """Removes the object, durably, if it still has this ETag; says whether it did. The caller has the key's lock.

        Commits of the key by other processes come before it or after it: they need .next as well.
        """
        target, base = self._path(key), self._sidecar(key)
        with self._pending_sidecar(base, target):
            try:
                deleted = unlink_version(target, etag)
                if deleted:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(base + b".headers")
            finally:
                os.unlink(base + b".next")  # last: who waits for its lock, finds it gone and makes a new one
        if deleted:
            sync_folder(self._private)
            folders = key.encode().split(b"/")[:-1]
            remove_folders([self._root + b"/".join(folders[: depth + 1]) for depth in range(len(folders))])
        return deleted

    def expired(
        self, tag: str, days: Mapping[str, float], now: float, pace: Callable[[], object] = lambda: None
    ) -> Iterator[Expired]:
        """The objects that were stored longer before `now`, in seconds, than `days` says for the value of their `tag`.

        Only the content's very own sidecar counts (UP-12): where there is none, where another tool wrote it or it
        cannot be read, the object is kept, and so is what comes from the future. `pace` is called at each step, and
        what it raises is the end.
        """
        for key in self.keys("", pace):
            pace()
            found = None
            with contextlib.suppress(OSError):  # it is gone; or nobody can read of which version its sidecar is
                found = self._expired(key, f"tag-{tag.lower()}", days, now)
            if found is not None:
                yield found

    def _expired(self, key: str, name: str, days: Mapping[str, float], now: float) -> Optional[Expired]:
        status = os.stat(self._path(key))
        age = (now - status.st_mtime) / DAY
        if age <= 0 or not any(age > most for most in days.values()):  # most are younger: no sidecar to read
            return None
        etag = entity_tag(status)
        lines = self.sidecar(key, etag)
        value = lines.get(name, "")
        if lines.get("etag") != etag or value not in days or not age > days[value]:
            return None
        return Expired(key, etag, value, age)

    def keys(self, prefix: str, pace: Callable[[], object] = lambda: None) -> Iterator[str]:
        """All keys that start with `prefix`, sorted by bytes, in bounded memory (LS-1). `pace` is called for each."""
        for path in self._walk(prefix.encode(), pace):
            with contextlib.suppress(UnicodeDecodeError):  # copied in by hand: no key can name it
                yield path.decode()

    def _walk(self, prefix: bytes, pace: Callable[[], object]) -> Iterator[bytes]:
        """Folders sort as `name/`, so that the keys of the whole tree come in the order of their bytes."""
        levels = [(b"", sorted_names(self._names(b"", prefix, pace)))]  # a stack: the tree may be deeper than Python's
        while levels:
            folder, names = levels[-1]
            name = next(names, None)
            if name is None:
                levels.pop()
            elif name.endswith(b"/"):
                levels.append((folder + name, sorted_names(self._names(folder + name, prefix, pace))))
            else:
                yield folder + name

    def _names(self, folder: bytes, prefix: bytes, pace: Callable[[], object]) -> Iterator[bytes]:
        """What in a folder has the prefix or, being a folder itself, may hold what has."""
        try:
            entries = os.scandir(self._root + folder)
        except OSError as error:
            if folder and error.errno in UNLISTED:
                return
            raise
        with entries:
            for entry in entries:
                pace()
                path = folder + entry.name
                if entry.is_dir(follow_symlinks=False):
                    path += b"/"
                    if path != OWN and (path.startswith(prefix) or prefix.startswith(path)):
                        yield entry.name + b"/"
                elif path.startswith(prefix) and is_file(entry):
                    yield entry.name
