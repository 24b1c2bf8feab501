"""Objects as plain files under one folder: atomic, durable, shared by several server processes (UP-8, UP-12).

What `ls` shows is what is served. POSIX: rename(2), fsync(2) and flock(2) are what everything here rests on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import heapq
import itertools
import os
import secrets
import stat
import tempfile
import time
from typing import IO, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

NO_OBJECT = frozenset([errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO])
PRIVATE = ".metadata"  # the one name at the top of the storage that is ours
SORTED_IN_MEMORY = 50_000  # names of one folder (some 5 MB); above it runs are sorted on disk and merged
REMEMBERED_SIDECARS = 2_048  # about 1 KB each

Tags = Sequence[Tuple[str, str]]


def entity_tag(status: os.stat_result) -> str:
    """A strong validator (RFC 9110 8.8.3): a commit sets the time in nanoseconds, so no two versions share it."""
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


def read_sidecar(path: bytes) -> Dict[str, str]:
    """The `name:value` lines of a sidecar, {} where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # Measured: 2 us where there is none; open() takes 9
    except FileNotFoundError:
        return {}
    with open(descriptor, encoding="utf-8", errors="replace") as file:
        lines = [line.partition(":") for line in file]
    return {name.strip().lower(): value.strip() for name, colon, value in lines if colon}


def write_sidecar(descriptor: int, content_type: str, tags: Tags, etag: str) -> None:
    """The ETag comes last: a sidecar that has it is whole."""
    lines = [("content-type", content_type), *((f"tag-{name}", value) for name, value in tags), ("etag", etag)]
    os.write(descriptor, "".join(f"{name}:{value}\n" for name, value in lines).encode())
    os.fsync(descriptor)


def same_file(descriptor: int, path: bytes) -> bool:
    """Whether the open file still goes by this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def sync_folder(path: bytes) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: bytes) -> List[bytes]:
    """Makes a folder and its parents, durably; gives those that were not there, the outermost first."""
    missing = list(itertools.takewhile(lambda folder: not os.path.isdir(folder), parents(path)))[::-1]
    for folder in missing:
        with contextlib.suppress(
            FileExistsError
        ):  # made by another upload meanwhile, or a file: then the rename says so
            os.mkdir(folder)
        sync_folder(os.path.dirname(folder))
    return missing


def parents(path: bytes) -> Iterator[bytes]:
    """The folder itself, its parent, and so on to the top."""
    while path not in (b"", b"/"):
        yield path
        path = os.path.dirname(path)


def sorted_names(names_of_folder: Iterator[bytes]) -> Iterator[bytes]:
    """Sorts in bounded memory: runs of SORTED_IN_MEMORY names, on disk when there are several (LS-1)."""
    runs: List[Iterable[bytes]] = []
    while run := sorted(itertools.islice(names_of_folder, SORTED_IN_MEMORY)):
        if not runs and len(run) < SORTED_IN_MEMORY:
            return iter(run)
        file = tempfile.TemporaryFile()
        file.writelines(name + b"\0" for name in run)
        runs.append(spilled(file))
    return heapq.merge(*runs)


def spilled(file: IO[bytes]) -> Iterator[bytes]:
    """The names of a run on disk; a NUL ends each, the one byte that no file name has."""
    file.seek(0)
    rest = b""
    with file:
        while block := file.read(65_536):
            *whole, rest = (rest + block).split(b"\0")
            yield from whole


class Stored(NamedTuple):
    """An object opened for reading. Whoever got it closes `descriptor`."""

    descriptor: int
    size: int  # bytes
    etag: str
    modified: int  # seconds since the epoch
    content_type: str  # "" where nobody said
    state: str = "cached"


class LocalIncoming:
    """A file among the uploads, locked while this process lives. Closing discards what was not committed."""

    def __init__(self, folder: bytes, publish: Callable[[bytes, str, str, str, Tags], None]) -> None:
        self._publish, self._published = publish, False
        while True:
            self._path = folder + secrets.token_hex(12).encode()
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if same_file(self._descriptor, self._path):  # else a starting server took it for a leftover
                break
            os.close(self._descriptor)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def commit(self, key: str, content_type: str, tags: Tags) -> str:
        """Makes the file the object `key`, at once and whole; it is on stable storage when this returns its ETag."""
        now = time.time_ns()  # our clock: the kernel's stamps tick every 4 ms, too coarse for an ETag
        os.utime(self._descriptor, ns=(now, now))
        os.fsync(self._descriptor)
        etag = entity_tag(os.fstat(self._descriptor))
        self._publish(self._path, key, etag, content_type, tags)
        self._published = True
        return etag

    def close(self) -> None:
        if not self._published:
            with contextlib.suppress(FileNotFoundError):  # renamed, and what came after that failed
                os.unlink(self._path)
        os.close(self._descriptor)


class LocalDriver:
    """All objects of one folder on one file system. Any thread may call; of several committers of a key the last wins.

    Content sits at `<root>/<key>`, its metadata in `<root>/.metadata/<sha512 of the key>.headers` (UP-12). Two files
    cannot be renamed in one step, so a commit goes

        1  upload, fsync                    .metadata/uploads/<random>
        2  new sidecar, fsync               .metadata/<sha512>.next      (locked: one committer a key, across processes)
        3  rename upload -> <key>           the object is the new one from here on
        4  rename .next  -> .headers

    and each sidecar ends with the ETag of the content it belongs to. Readers take the sidecar whose ETag is the
    content's. A crash after 2 leaves a .next that belongs to nothing; after 3 one that is right beside a .headers that
    is not: readers see the true pair at any moment, and the next upload of the key tidies up.
    """

    def __init__(self, root: str) -> None:
        self._root = os.path.join(os.path.abspath(os.fsencode(root)), b"")  # these end in a slash: joined by +
        self._private = self._root + PRIVATE.encode() + b"/"
        self._uploads = self._private + b"uploads/"
        os.makedirs(self._uploads, exist_ok=True)
        self._sidecars: Dict[Tuple[str, str], Dict[str, str]] = {}
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Uploads of a crashed process. A living one, perhaps of another server on this folder, has its own locked."""
        with os.scandir(self._uploads) as entries:
            for entry in entries:
                with contextlib.suppress(OSError), open(entry.path, "rb") as left:
                    fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)

    def _path(self, key: str) -> bytes:
        return self._root + key.encode()

    def _sidecar(self, key: str) -> bytes:
        return self._private + hashlib.sha512(key.encode()).hexdigest().encode()

    def open(self, key: str) -> Optional[Stored]:
        """The object, or None where there is none."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a fifo must not hang us
        except OSError as error:
            if error.errno in NO_OBJECT:
                return None
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                os.close(descriptor)
                return None
            etag = entity_tag(status)
            lines = self._remembered_sidecar(key, etag)
            return Stored(descriptor, status.st_size, etag, int(status.st_mtime), lines.get("content-type", ""))
        except OSError:
            os.close(descriptor)
            raise

    def _remembered_sidecar(self, key: str, etag: str) -> Dict[str, str]:
        """A sidecar that names its content never changes: no need to read it for each download."""
        lines = self._sidecars.get((key, etag))
        if lines is None:
            lines = self.sidecar(key, etag)
            if lines.get("etag") == etag:
                if len(self._sidecars) >= REMEMBERED_SIDECARS:
                    self._sidecars.clear()
                self._sidecars[key, etag] = lines
        return lines

    def sidecar(self, key: str, etag: str) -> Dict[str, str]:
        """The lines of the sidecar that belongs to the content with this ETag, {} where there is none.

        A .headers with another ETag or none counts when no better one is there: another tool wrote it, or somebody
        copied the content in by hand.
        """
        base, lines = self._sidecar(key), {}
        for name in (b".headers", b".next", b".headers"):  # a committer elsewhere may rename between two looks
            found = read_sidecar(base + name)
            if found.get("etag") == etag or (name == b".headers" and "etag" not in found):
                return found
            lines = found
        return lines

    @contextlib.contextmanager
    def create(self, key: Optional[str]) -> Iterator[LocalIncoming]:
        """A new object; leaving the block without a commit leaves no trace. `key` is None while it is not known yet."""
        if key is not None:
            self._refuse_conflict(key)
        with contextlib.closing(LocalIncoming(self._uploads, self._publish)) as incoming:
            yield incoming

    def _refuse_conflict(self, key: str) -> None:
        """UP-4, before a body is read for nothing. ENOTDIR comes from stat(2) itself."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(self._path(key)).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))

    def _publish(self, upload: bytes, key: str, etag: str, content_type: str, tags: Tags) -> None:
        """Steps 2 to 4 of a commit; step 1 is done."""
        target, base = self._path(key), self._sidecar(key)
        with self._pending_sidecar(base, target) as sidecar:
            try:
                write_sidecar(sidecar, content_type, tags, etag)
                sync_folder(self._private)
                self._rename_into_place(upload, target)
            except BaseException:
                os.unlink(base + b".next")
                raise
            os.rename(base + b".next", base + b".headers")
            sync_folder(os.path.dirname(target))

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

    @staticmethod
    def _rename_into_place(upload: bytes, target: bytes) -> None:
        made = make_folders(os.path.dirname(target))
        try:
            os.rename(upload, target)
        except BaseException:
            for folder in reversed(made):
                with contextlib.suppress(OSError):  # another upload may have moved in
                    os.rmdir(folder)
            raise

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with `prefix`, sorted by bytes, in bounded memory (LS-1)."""
        for path in self._walk(b"", prefix.encode()):
            with contextlib.suppress(UnicodeDecodeError):  # copied in by hand: no key can name it
                yield path.decode()

    def _walk(self, folder: bytes, prefix: bytes) -> Iterator[bytes]:
        """Folders sort as `name/`, so that the keys of the whole tree come in the order of their bytes."""
        for name in sorted_names(self._entries(folder)):
            path = folder + name
            if not name.endswith(b"/"):
                if path.startswith(prefix):
                    yield path
            elif path.startswith(prefix) or prefix.startswith(path):
                yield from self._walk(path, prefix)

    def _entries(self, folder: bytes) -> Iterator[bytes]:
        try:
            entries = os.scandir(self._root + folder)
        except (FileNotFoundError, NotADirectoryError):
            if folder:  # removed since its parent was read
                return
            raise
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if folder or entry.name != PRIVATE.encode():
                        yield entry.name + b"/"
                elif entry.is_file():
                    yield entry.name
