"""Objects by the SHA-256 of their bytes, each on all storages of one pair of folders (SO-4 to SO-7).

    <storage>/AA/BB/CC/<SHA in upper case>.dat    a copy of an object
    <storage>/.uploads/<random>                   one in the making

A pair is a tuple of storages, of any number. What a read guarantees: no byte comes from a copy that was not hashed
since it last changed, as far as the file system tells by inode, size, mtime and ctime. So each copy is hashed by the
first read of it, and again when somebody touched it; what the disk changes behind the back of its file system is found
by a scrub. A copy that is missing, short or wrong is restored from a good one by whoever finds that out.

Any thread may call. Stands on `files.py`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import queue
import random
import re
import stat
import threading
import time
from bisect import bisect
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import accumulate
from typing import Callable, NamedTuple, Optional

from kcistorage_parts.files import (
    Identity,
    NewFile,
    identity,
    make_folders,
    missing_folders,
    remove_leftovers,
    same_file,
    sync_folder,
)

SPARE = 10**9  # bytes that a pair should have left after a file (SO-6)
BLOCK = 1 << 20  # bytes read at a time
HASHED_AHEAD = 8  # blocks of an upload that may wait for the hash: up to 2 MiB
AT_ONCE = 64 << 20  # bytes of an object whose copies are restored before it is served, not after
MOST_VERIFIED = 65_536  # copies that are remembered as good, some 20 MB
TICK_NS = 20_000_000  # within which a file may change twice, and have the same times: kernels tick every 1 to 10 ms
RESTING_SECONDS = 60.0  # after a failure nothing is restored on a storage for so long
UPLOADS = b".uploads/"
NAME = re.compile(r"([0-9A-F]{64})\.dat")
FOLDER = re.compile(r"[0-9A-F]{2}")
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a fifo must not hang us


def choose(free: Sequence[int], size: int, point: float) -> Optional[int]:
    """The pair for a file of `size` bytes, by what each has `free` (SO-6); `point`, in [0, 1), is chance. Pure."""
    roomy = [left if left - size > SPARE else 0 for left in free]
    if any(roomy):
        return bisect(list(accumulate(roomy)), point * sum(roomy))
    most = max(range(len(free)), key=free.__getitem__, default=0)
    return most if free and free[most] > size else None


def in_the_making(storage: str) -> bytes:
    """The folder for new files on a storage. Raises OSError."""
    folder = os.path.join(os.fsencode(storage), UPLOADS)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
    return folder


def is_mounted(folder: str) -> bool:
    """Whether it lies on a file system other than the root's, which is what a disk that is not mounted leaves."""
    path = os.path.realpath(folder)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path != "/"


def cancelled() -> OSError:
    return OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


def hash_of(descriptor: int, is_over: Callable[[], bool]) -> str:
    """The SHA-256 of a file, from its beginning. Raises OSError; also when nobody wants it any more."""
    sum_of, at = hashlib.sha256(), 0
    while block := os.pread(descriptor, BLOCK, at):
        if is_over():
            raise cancelled()
        sum_of.update(block)
        at += len(block)
    return sum_of.hexdigest()


def settled(descriptor: int) -> os.stat_result:
    """The state of a file, once any further change would show in it."""
    status = os.fstat(descriptor)
    young = TICK_NS - (time.time_ns() - status.st_ctime_ns)
    if 0 < young <= TICK_NS:
        time.sleep(young / 1e9)
    return status


@lru_cache(maxsize=4096)  # Measured: 0.2 us, against 3 us
def paths_of(pair: tuple[str, ...], sha: str) -> tuple[bytes, ...]:
    """Where the copies of an object lie (SO-5)."""
    name = sha.upper()
    below = f"{name[:2]}/{name[2:4]}/{name[4:6]}/{name}.dat"
    return tuple(os.fsencode(f"{storage}/{below}") for storage in pair)


class Copy(NamedTuple):
    """A place for a copy of an object."""

    storage: str
    path: bytes
    status: Optional[os.stat_result]  # None: there is none


class Good(NamedTuple):
    """An object that was found, by a copy that may be served."""

    copy: Copy
    descriptor: int  # for the caller to close
    size: int  # bytes
    modified: int  # seconds since the epoch: of the oldest copy, so that all give the same


class Scrubbed(NamedTuple):
    """A copy that was looked at: `ok`, `missing`, `damaged`, or `unreadable`; and whether it is `restored`."""

    path: str
    what: str
    size: int  # bytes
    restored: bool = False


class Damaged(Exception):
    """There are copies, and all of them are wrong."""


class WentBad(Exception):
    """A copy that was taken for good is not, or cannot be read."""


def blocks_of(path: bytes, sha: str) -> Generator[bytes, None, None]:
    """The bytes of a good copy; raises WentBad, at the latest after the last of them."""
    sum_of = hashlib.sha256()
    try:
        descriptor = os.open(path, READ)
        try:
            while block := os.read(descriptor, BLOCK):
                sum_of.update(block)
                yield block
        finally:
            os.close(descriptor)
    except OSError as error:
        raise WentBad(os.strerror(error.errno or 0)) from None
    if sum_of.hexdigest() != sha:
        raise WentBad("the good copy went bad")


class Hasher:
    """SHA-256 in a thread of its own, from the second block on: it takes longer than writing, and waits for none."""

    def __init__(self) -> None:
        self._hash, self._pool = hashlib.sha256(), ThreadPoolExecutor(1, "hash")
        self._first = True
        self._ahead: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()

    def update(self, data: bytes) -> None:
        """`data` must not change any more."""
        if self._first:
            self._first = False
            self._hash.update(data)
            return
        self._ahead.put(self._pool.submit(self._hash.update, data))
        if self._ahead.qsize() > HASHED_AHEAD:
            self._ahead.get().result()

    def hexdigest(self) -> str:
        self._pool.shutdown()
        return self._hash.hexdigest()


def discard(files: Sequence[NewFile]) -> None:
    for file in files:
        with contextlib.suppress(OSError):  # a disk that has failed keeps it, or not
            file.close()


class Incoming:
    """An object on its way to the storages of a pair, a file on each; to none, where no pair has room. One thread."""

    def __init__(
        self,
        storages: tuple[str, ...],
        files: Sequence[NewFile],
        publish: Callable[[Incoming, str], tuple[bool, list[str]]],
    ) -> None:
        self.storages, self.files = storages, files
        self._publish, self._hasher = publish, Hasher()

    def write(self, data: bytes) -> None:
        self._hasher.update(data)
        for file in self.files:
            file.write(data)

    def sha256(self) -> str:
        """Of all that was written; nothing may come after it."""
        return self._hasher.hexdigest()

    def commit(self, sha: str) -> tuple[bool, list[str]]:
        """Stores it as `sha`, which it is: whether it was not there before, and the paths of its copies.

        ENOSPC where no pair had room for it. The copies are on stable storage when this returns.
        """
        return self._publish(self, sha)

    def close(self) -> None:
        self._hasher.hexdigest()
        discard(self.files)


class Storages:
    """All pairs of a server.

    `holding` gives the lock of a sha; `tell` takes an event and what belongs to it. With `verify` off, a copy is taken
    for good if all of its pair have one size.
    """

    def __init__(
        self,
        pairs: Sequence[Sequence[str]],
        holding: Callable[[str], contextlib.AbstractContextManager[None]],
        tell: Callable[..., None] = lambda event, **about: None,
        *,
        writable: str = ".*",
        require_mounts: bool = True,
        verify: bool = True,
    ) -> None:
        self.pairs = [tuple(os.path.abspath(storage) for storage in pair) for pair in pairs]
        self._holding, self._tell = holding, tell
        self._writable, self._require_mounts, self._verify = re.compile(writable), require_mounts, verify
        self._verified: dict[bytes, Identity] = {}
        self._doubted: set[bytes] = set()
        self._lock = threading.Lock()  # of the two lines above, and the last four
        self._resting: dict[str, float] = {}  # storages on which something could not be restored, until when
        self._mending: set[tuple[int, str]] = set()  # later, as is the next line
        self._mender: Optional[ThreadPoolExecutor] = None
        self._closing = False

    def close(self) -> None:
        """Ends what goes on in the background. A large copy that is not restored yet is left to the next process."""
        with self._lock:
            self._closing = True
            if self._mender is not None:
                self._mender.shutdown(wait=False, cancel_futures=True)

    # Where

    def is_available(self, storage: str) -> bool:
        """Whether it is a folder that can be reached, of a disk that is mounted (SO-8)."""
        try:
            with os.scandir(storage):
                return not self._require_mounts or is_mounted(storage)
        except OSError:
            return False

    def recover(self) -> None:
        """Takes away what uploads of dead processes left."""
        for storage in (storage for pair in self.pairs for storage in pair):
            if self.is_available(storage):
                try:
                    remove_leftovers(in_the_making(storage))
                except OSError as error:  # read-only, say: it can be read all the same
                    self._tell("storage-failed", storage=storage, error=os.strerror(error.errno or 0))

    def _copies(self, pair: tuple[str, ...], sha: str) -> list[Copy]:
        return [self._copy(storage, path) for storage, path in zip(pair, paths_of(pair, sha))]

    @staticmethod
    def _copy(storage: str, path: bytes) -> Copy:
        try:
            status = os.stat(path)
        except OSError:  # or nobody can tell: to a reader it is the same
            return Copy(storage, path, None)
        return Copy(storage, path, status if stat.S_ISREG(status.st_mode) else None)

    # Reading

    def open(self, sha: str, first: int = 0) -> Optional[tuple[int, Good]]:
        """The number of its pair, `first` being looked at first, and the object; None where there is none.

        Raises Damaged. Copies that are not as they should be are restored, large ones later.
        """
        damaged = False
        for number in sorted(range(len(self.pairs)), key=lambda number: number != first):
            copies = self._copies(self.pairs[number], sha)
            if any(copy.status for copy in copies):
                good = (self._opened(copies) if self._are_well(copies) else None) or self._mended(number, sha)
                if good is not None:
                    return number, good
                again = self._copies(self.pairs[number], sha)  # they may be gone: those of a post that failed are
                damaged = damaged or any(copy.status for copy in again)
        if damaged:
            raise Damaged(sha)
        return None

    def are_well(self, number: int, sha: str) -> list[os.stat_result]:
        """The states of all copies in a pair, if each of them may be served as it is; else []."""
        states = []
        for path in paths_of(self.pairs[number], sha):
            try:
                status = os.stat(path)
            except OSError:
                return []
            if self._verified.get(path) != identity(status):
                return []
            states.append(status)
        return states

    def _are_well(self, copies: Sequence[Copy]) -> bool:
        return all(map(self._is_known, copies))

    def _opened(self, copies: Sequence[Copy]) -> Optional[Good]:
        """Any of these copies that is known to be good; None where none is, or is any more."""
        modified = min((int(copy.status.st_mtime) for copy in copies if copy.status), default=0)
        known = [copy for copy in copies if self._is_known(copy)]
        for copy in random.sample(known, len(known)):
            with contextlib.suppress(OSError):
                descriptor = os.open(copy.path, READ)
                with contextlib.ExitStack() as otherwise:
                    otherwise.callback(os.close, descriptor)
                    status = os.fstat(descriptor)
                    if self._verified.get(copy.path) == identity(status):  # it was when we looked at its name
                        otherwise.pop_all()
                        return Good(copy, descriptor, status.st_size, modified)
        return None

    def content(self, sha: str, good: Good) -> Optional[bytes]:
        """All of a small object, hashed as it is read; None where that is not good any more, to open it once more."""
        content = b""
        with contextlib.suppress(OSError):
            content = os.pread(good.descriptor, good.size + 1, 0)
        if len(content) == good.size and not (self._verify and hashlib.sha256(content).hexdigest() != sha):
            return content
        self._doubt(good.copy.path)
        return None

    def _mended(self, number: int, sha: str) -> Optional[Good]:
        """Opened after a close look at all copies; after another, where one turned out to be bad as it was copied."""
        pair = self.pairs[number]
        with self._holding(sha):
            for _ in range(len(pair) + 1):
                copies = self._copies(pair, sha)
                good = self._first_good(sha, copies)
                if good is None:
                    return None
                if good.status and good.status.st_size > AT_ONCE:
                    self._mend_later(number, sha)
                else:
                    self._mend(sha, good, copies)
                opened = self._opened(self._copies(pair, sha))
                if opened is not None:
                    return opened
        return None

    def _first_good(self, sha: str, copies: Sequence[Copy]) -> Optional[Copy]:
        there = [copy for copy in random.sample(copies, len(copies)) if copy.status]
        must_hash = self._must_hash(copies)
        known = sorted(there, key=lambda copy: not self._is_known(copy))
        return next((copy for copy in known if self._is_good(sha, copy, must_hash)), None)

    def _must_hash(self, copies: Sequence[Copy]) -> bool:
        return self._verify or len({copy.status and copy.status.st_size for copy in copies}) > 1

    def _is_known(self, copy: Copy) -> bool:
        """Whether this very file was found to be good before."""
        return copy.status is not None and self._verified.get(copy.path) == identity(copy.status)

    def _is_good(self, sha: str, copy: Copy, must_hash: bool = True) -> bool:
        if copy.status is None:
            return False
        if self._is_known(copy):
            return True
        with contextlib.suppress(OSError):
            descriptor = os.open(copy.path, READ)
            try:
                status = settled(descriptor)
                trusted = not must_hash and copy.path not in self._doubted
                good = trusted or hash_of(descriptor, lambda: self._closing) == sha
                if good:  # so it was in this state, and may be in another by now
                    self._remember(copy.path, status)
                return good
            finally:
                os.close(descriptor)
        return False

    def _remember(self, path: bytes, status: os.stat_result) -> None:
        """That a file in this state is good."""
        with self._lock:
            self._verified.pop(path, None)
            self._verified[path] = identity(status)
            if len(self._verified) > MOST_VERIFIED:
                del self._verified[next(iter(self._verified))]
            self._doubted.discard(path)

    def _doubt(self, path: bytes) -> None:
        """A copy that was taken for good and is not, or cannot be read: nobody takes it for good without a hash."""
        with self._lock:
            self._verified.pop(path, None)
            self._doubted.add(path)

    # Restoring

    def _mend_later(self, number: int, sha: str) -> None:
        """In a thread of its own, and without the lock: readers need not wait for it."""
        with self._lock:
            if (number, sha) in self._mending or self._closing:
                return
            if self._mender is None:
                self._mender = ThreadPoolExecutor(1, "mender")
            self._mender.submit(self._mend_now, number, sha)
            self._mending.add((number, sha))

    def _mend_now(self, number: int, sha: str) -> None:
        try:
            copies = self._copies(self.pairs[number], sha)
            good = self._first_good(sha, copies)
            if good is not None:
                self._mend(sha, good, copies)
        finally:
            with self._lock:
                self._mending.discard((number, sha))

    def _mend(self, sha: str, good: Copy, copies: Sequence[Copy]) -> None:
        """Restores those that are missing or wrong. Where that failed lately nobody looks: each look takes a hash."""
        must_hash = self._must_hash(copies)
        for copy in copies:
            rests = time.monotonic() < self._resting.get(copy.storage, 0)
            if copy is not good and not rests and not self._is_good(sha, copy, must_hash):
                self._restore(sha, good, copy)

    def _restore(self, sha: str, good: Copy, copy: Copy) -> bool:
        """Puts a good copy in its place; says whether it could."""
        if not self.is_available(copy.storage):
            return False
        path = os.fsdecode(copy.path)
        try:
            self._put_copy(sha, good, copy)
        except WentBad as bad:
            self._doubt(good.path)
            self._tell("restore-failed", path=path, error=f"{os.fsdecode(good.path)}: {bad}")
            return False
        except OSError as error:
            self._resting[copy.storage] = time.monotonic() + RESTING_SECONDS
            self._tell("restore-failed", path=path, error=os.strerror(error.errno or 0))
            return False
        self._tell("restored", path=path, was="missing" if copy.status is None else "damaged")
        return True

    def _put_copy(self, sha: str, good: Copy, copy: Copy) -> None:
        assert good.status is not None
        with NewFile(in_the_making(copy.storage)) as file, contextlib.closing(blocks_of(good.path, sha)) as blocks:
            for block in blocks:
                file.write(block)
                if self._closing:
                    raise cancelled()
            file.settle(good.status.st_mtime_ns)
            self._move_in(file, copy.path)

    def _move_in(self, file: NewFile, path: bytes) -> None:
        folder = os.path.dirname(path)
        make_folders(missing_folders(folder))
        os.rename(file.path, path)
        file.kept = True
        sync_folder(folder)
        self._remember(path, os.fstat(file.descriptor))

    # Writing

    def stored(self, sha: str) -> list[str]:
        """The paths of its good copies, all of its pair's if they can be had; [] where there is none."""
        with self._holding(sha):
            return self._stored(sha)

    def _stored(self, sha: str) -> list[str]:
        for pair in self.pairs:
            copies = self._copies(pair, sha)
            good = self._first_good(sha, copies)
            if good is not None:
                self._mend(sha, good, copies)
                now = self._copies(pair, sha)
                return [os.fsdecode(copy.path) for copy in now if self._is_known(copy)]
        return []

    def free(self, pair: Sequence[str]) -> int:
        """Bytes that each of its storages has left; 0 where one of them is not to be written (SO-6)."""
        if not all(self._writable.search(storage) and self.is_available(storage) for storage in pair):
            return 0
        try:
            volumes = [os.statvfs(storage) for storage in pair]
        except OSError:
            return 0
        return min((volume.f_bavail * volume.f_frsize for volume in volumes), default=0)

    def create(self, size: int) -> contextlib.AbstractContextManager[Incoming]:
        """A new object of `size` bytes, 0 where nobody knows. Leaving the block without a commit leaves no trace."""
        free = [self.free(pair) for pair in self.pairs]
        while (number := choose(free, size, random.random())) is not None:
            files = self._begun(self.pairs[number])
            if files is not None:
                return contextlib.closing(Incoming(self.pairs[number], files, self._publish))
            free[number] = 0
        return contextlib.closing(Incoming((), [], self._publish))

    def _begun(self, pair: Sequence[str]) -> Optional[list[NewFile]]:
        """A new file on each storage of a pair; None where one of them takes none."""
        files: list[NewFile] = []
        for storage in pair:
            try:
                files.append(NewFile(in_the_making(storage)))
            except OSError as error:
                self._tell("storage-failed", storage=storage, error=os.strerror(error.errno or 0))
                discard(files)
                return None
        return files

    def _publish(self, incoming: Incoming, sha: str) -> tuple[bool, list[str]]:
        with self._holding(sha):
            there = self._stored(sha)
            if there:
                return False, there
            if not incoming.files:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            copies = self._copies(incoming.storages, sha)
            self._settle(incoming.files)
            try:
                for file, copy in zip(incoming.files, copies):
                    self._move_in(file, copy.path)
            except BaseException:
                self._take_back(incoming.files, copies)
                raise
            return True, [os.fsdecode(copy.path) for copy in copies]

    @staticmethod
    def _take_back(files: Sequence[NewFile], copies: Sequence[Copy]) -> None:
        for file, copy in zip(files, copies):
            with contextlib.suppress(OSError):
                if file.kept and same_file(file.descriptor, copy.path):  # or another process has stored it meanwhile
                    os.unlink(copy.path)

    @staticmethod
    def _settle(files: Sequence[NewFile]) -> None:
        """Brings all of them to their disks, at the same time."""
        now = time.time_ns()
        with ThreadPoolExecutor(len(files), "settle") as pool:
            for settled in [pool.submit(file.settle, now) for file in files]:
                settled.result()

    # Scrubbing

    def scrub(self) -> Iterator[Scrubbed]:
        """Reads every copy and restores what it can; a server may run meanwhile. Memory is bounded."""
        for pair in self.pairs:
            for sha in self._shas(pair):
                yield from self._scrubbed(pair, sha)

    @staticmethod
    def _shas(pair: Sequence[str]) -> Iterator[str]:
        """Of the objects in a pair, sorted."""

        def names(below: str, wanted: re.Pattern[str]) -> list[str]:
            found: set[str] = set()
            for storage in pair:
                with contextlib.suppress(OSError):
                    found |= {name for name in os.listdir(f"{storage}/{below}") if wanted.fullmatch(name)}
            return sorted(found)

        for first in names("", FOLDER):
            for second in names(first, FOLDER):
                for third in names(f"{first}/{second}", FOLDER):
                    for name in names(f"{first}/{second}/{third}", NAME):
                        if name.startswith(first + second + third):
                            yield name[:64].lower()

    def _scrubbed(self, pair: tuple[str, ...], sha: str) -> list[Scrubbed]:
        with self._holding(sha):
            copies = self._copies(pair, sha)
            found = {copy.path: self._judged(sha, copy) for copy in copies}
            good = next((copy for copy in copies if found[copy.path] == "ok"), None)
            bad = [copy for copy in copies if found[copy.path] != "ok"]
            restored = {copy.path for copy in bad if good and self._restore(sha, good, copy)}
        sizes = [copy.status.st_size if copy.status else 0 for copy in copies]
        return [
            Scrubbed(os.fsdecode(copy.path), found[copy.path], size, copy.path in restored)
            for copy, size in zip(copies, sizes)
        ]

    def _judged(self, sha: str, copy: Copy) -> str:
        """By a hash, whatever is remembered."""
        with self._lock:
            self._verified.pop(copy.path, None)
        if copy.status is None:
            return "missing"
        try:
            os.close(os.open(copy.path, READ))
        except OSError:
            return "unreadable"
        return "ok" if self._is_good(sha, copy) else "damaged"
