"""Objects in a cloud, behind copies on disk: one driver for every back end (DL-7, UP-8 to UP-10, CH-2).

    open    a current copy -> its descriptor; a cold object -> its first bytes, and a Fill that fetches the rest
    create  blocks go to the cloud as they come, and into a copy; a commit makes both of them visible
    lease   a small object with a condition on it keeps the other servers of the container from a key

A back end (`Backend`) keeps the objects; a cache (`Cache`) keeps copies, and may be away, full or read-only: then
bytes pass it by. What a back end raises goes through: ConnectionError, TimeoutError, and OSError with EBUSY, EACCES,
ESTALE or EIO; ENOLCK is ours. Any thread may call the driver.

Stands on `fills.py`, `folders.py` and `leases.py`, its pieces.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Callable, NamedTuple, Optional, Protocol, Union

from kcistorage_parts.fills import (
    FETCH_BYTES,
    FETCHES,
    FIRST_BYTES,
    SEND_BYTES,
    Beginning,
    Cold,
    Copy,
    Fill,
    Properties,
    Rest,
)
from kcistorage_parts.folders import Folders
from kcistorage_parts.leases import Leases, honours_conditions

PRIVATE = ".metadata/"  # keys under it are ours: no upload has one, and no listing shows them
Tags = Sequence[tuple[str, str]]


# ---- What the driver stands on; the parts azure.py, s3.py and cache.py say more


class Upload(Protocol):
    """A large object on its way in; leaving the `with` block without a commit leaves nothing in sight."""

    def __enter__(self) -> Upload: ...
    def __exit__(self, *exception: object) -> None: ...
    def write(self, block: bytes) -> None: ...
    def commit(self) -> Properties: ...


class Backend(Protocol):
    """A container of objects. Any thread may call anything."""

    @property
    def BLOCK_BYTES(self) -> int: ...  # noqa: N802  # a constant of the class
    def stat(self, key: str) -> Optional[Properties]: ...
    def read(
        self, key: str, start: int, stop: int, etag: str = ""
    ) -> Optional[tuple[Properties, bytes, Rest]]: ...  # the beginning, and the rest as it arrives
    def put(self, key: str, data: bytes, content_type: str, tags: Tags) -> Properties: ...
    def upload(self, key: str, content_type: str, tags: Tags) -> Upload: ...
    def keys(self, prefix: str) -> Iterator[str]: ...
    def delete(self, key: str, etag: str = "") -> bool: ...
    def claim(self, key: str, etag: str, data: bytes) -> str: ...
    def close(self) -> None: ...


class Entry(Properties, Protocol):
    """A copy, opened."""

    @property
    def descriptor(self) -> int: ...
    @property
    def checked(self) -> float: ...  # when it was last known to be current, in seconds since the epoch


class CacheCopy(Copy, Protocol):
    """A copy in the making."""

    def write(self, data: bytes) -> None: ...
    def publish(self, key: str, size: int, etag: str, modified: int, content_type: str) -> None: ...


class Cache(Protocol):
    """Copies on disk. Any thread may call anything."""

    def open(self, key: str) -> Optional[Entry]: ...
    def touch(self, key: str, etag: str) -> None: ...
    def drop(self, key: str) -> None: ...
    def create(self) -> CacheCopy: ...


class CloudIncoming:
    """An object on its way in: to the cloud in blocks as soon as its key is known, and into a copy."""

    def __init__(self, driver: CloudDriver, key: Optional[str], content_type: str, tags: Tags) -> None:
        self._driver, self._key, self._content_type, self._tags = driver, key, content_type, tags
        self._block: list[bytes] = []
        self._block_size = self._size = 0
        self._held = contextlib.ExitStack()
        self._upload: Optional[Upload] = None
        self._copy = driver.new_copy()
        if self._copy is not None:
            self._held.callback(self._copy.close)
        elif key is None:
            raise OSError(errno.ENOSPC, "no room for an upload whose key is not known")

    def close(self) -> None:
        self._held.close()

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._copy is not None:
            try:
                self._copy.write(data)
            except OSError as error:
                if self._key is None:
                    raise
                self._driver.cannot_cache(error)
                self._copy.close()
                self._copy = None
        if self._key is not None:
            self._gather(data)

    def _gather(self, data: bytes) -> None:
        """Blocks of just the size that the back end wants; the last one is left for the commit."""
        most = self._driver.backend.BLOCK_BYTES
        while self._block_size + len(data) > most:
            cut = most - self._block_size
            self._block.append(data[:cut])
            self._send()
            data = data[cut:]
        self._block.append(data)
        self._block_size += len(data)

    def _send(self) -> None:
        assert self._key is not None
        if self._upload is None:
            upload = self._driver.backend.upload(self._key, self._content_type, self._tags)
            self._upload = self._held.enter_context(upload)
        block, self._block, self._block_size = b"".join(self._block), [], 0
        with self._driver.timed("write"):
            self._upload.write(block)

    def commit(self, key: str, content_type: str, tags: Tags) -> str:
        """Makes the object visible in the cloud, then here; its ETag."""
        spooled, self._key = self._key is None, key
        self._content_type, self._tags = content_type, tags
        if spooled:
            self._send_spooled()
        self._driver.before_commit(key)
        try:
            properties = self._commit()
        except BaseException:  # nobody knows which version is there now
            self._driver.forget(key)
            raise
        self._driver.after_commit(key, self._copy, properties)
        return properties.etag

    def _send_spooled(self) -> None:
        """What came before its key was known."""
        assert self._copy is not None
        for at in range(0, self._size, SEND_BYTES):
            self._gather(os.pread(self._copy.descriptor, SEND_BYTES, at))

    def _commit(self) -> Properties:
        assert self._key is not None
        with self._driver.timed("commit"):
            if self._upload is None:
                data = b"".join(self._block)
                return self._driver.backend.put(self._key, data, self._content_type, self._tags)
            self._upload.write(b"".join(self._block))
            return self._upload.commit()


# ---- The driver

MOST_BYTES = 1 << 48  # no cloud has larger objects: Azure's end at 190 TiB
BARREN = 3  # requests in a row for the rest of something, which broke off before a byte came
LET_FILL_SECONDS = 20.0  # that a commit waits for the readers of the version before
TRUST_SECONDS = 10.0  # after a failure, copies are given out for so long before the cloud is asked again
QUIET_SECONDS = 60.0  # between two warnings of a kind


class Hit(NamedTuple):
    """An object whose bytes are here: in a file, in memory, or nowhere, where only its head was asked for."""

    descriptor: int
    content: Optional[bytes]
    size: int  # bytes
    etag: str
    modified: int  # seconds since the epoch
    content_type: str
    state: str

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        return iter(())


class Finding(NamedTuple):
    """What the cloud told of an object: that what is here is current, or else what it has."""

    properties: Optional[Properties] = None
    at: int = 0  # where the next begin
    first: Optional[bytes] = None  # None where no bytes were wanted
    fill: Optional[Fill] = None


CURRENT = Finding()


Ask = Callable[[int, int], tuple[bytes, Rest]]  # the beginning of the bytes [start, stop) of one version, and the rest


def unbroken(ask: Ask, start: int, stop: int, rest: Optional[Rest] = None) -> Generator[bytes, None, None]:
    """The bytes [start, stop), which `rest` begins with. Where these break off, it is asked for those that lack."""
    barren = 0
    failure: OSError = ConnectionError("the storage sent fewer bytes than were asked for")
    while start < stop:
        first, at = b"", start
        if rest is None:
            first, rest = ask(start, stop)
        try:
            with contextlib.closing(rest):
                for piece in filter(None, itertools.chain([first], rest)):
                    start += len(piece)
                    if start > stop:
                        raise OSError(errno.EIO, "the storage sent more bytes than were asked for")
                    yield piece
        except (ConnectionError, TimeoutError) as error:
            failure = error
        rest, barren = None, 0 if start > at else barren + 1
        if barren > BARREN:
            raise failure


class CloudDriver:
    """A container behind a cache; `cache` is None where there cannot be one. `warn` takes an event and a text."""

    def __init__(
        self,
        backend: Backend,
        cache: Optional[Cache],
        revalidate_seconds: float = 60.0,
        cluster: bool = True,
        warn: Callable[[str, str], None] = lambda event, text: None,
        took: Callable[[str, float], None] = lambda operation, seconds: None,
    ) -> None:
        self.backend, self._cache, self._revalidate_seconds = backend, cache, revalidate_seconds
        self._warn, self._took = warn, took
        self._cluster: Optional[bool] = None if cluster else False  # None: to be found out
        self._leases, self._folders = Leases(backend, self.warn), Folders(backend)
        self._lock = threading.Lock()  # of the next four
        self._fills: dict[str, Fill] = {}
        self._looks: dict[tuple[str, bool], Future[Optional[Finding]]] = {}
        self._looked = 0  # how many of them have ended
        self._spoilt: set[str] = set()  # keys whose outdated copies could not be deleted
        self._trusted_until = 0.0
        self._together: set[str] = set()  # keys of uploads that were looked at all at once
        self._warned: dict[str, float] = {}
        self._warning = threading.Lock()  # of the line above
        self._fetches = threading.BoundedSemaphore(FETCHES)

    # Reading

    def open(self, key: str, bodiless: bool = False, start: int = 0) -> Union[Hit, Cold, None]:
        """The object, or None where there is none. `bodiless`: no bytes of it are wanted; else those from `start`."""
        seen = self._looked
        here, known = self._fresh(key)
        while here is None:
            finding = self._look(key, bodiless, start if start < MOST_BYTES else 0, seen, known)
            if finding is None:
                return None
            if finding is not CURRENT:
                return self._found(key, finding)
            seen = self._looked
            here, known = self._here(key)[0], ""  # it may have been evicted meanwhile
        return here

    def _fresh(self, key: str) -> tuple[Union[Hit, Cold, None], str]:
        """What is here and may be given out unasked (CH-2); else the ETag of what has to be revalidated, or ""."""
        here, checked = self._here(key)
        if here is None:
            return None, ""
        if abs(time.time() - checked) < self._revalidate_seconds or time.monotonic() < self._trusted_until:
            return here, ""
        here.close()
        return None, here.etag

    def _here(self, key: str) -> tuple[Union[Hit, Cold, None], float]:
        """A copy, whole or in the making, and when it was last known to be current."""
        entry = self._cache.open(key) if self._cache is not None and key not in self._spoilt else None
        if entry is not None:
            hit = Hit(entry.descriptor, None, entry.size, entry.etag, entry.modified, entry.content_type, "cached")
            return hit, entry.checked
        fill = self._fills.get(key)
        if fill is None:
            return None, 0.0
        cold = Cold(fill.properties, fill.first, fill.fetch, fill, fill.at)
        return (cold, fill.checked) if cold.follows else self._here(key)  # it has just ended: there is a copy, or not

    def _found(self, key: str, finding: Finding) -> Union[Hit, Cold]:
        """The object for one of those who waited for the finding."""
        properties, at, first, fill = finding
        assert properties is not None
        if first is None or (fill is None and len(first) == properties.size):
            size, etag, modified = properties.size, properties.etag, properties.modified
            return Hit(-1, first, size, etag, modified, properties.content_type, "uncached")
        cold = Cold(properties, first, partial(unbroken, self._asker(key, properties)), fill, at)
        if fill is None or cold.follows:
            return cold
        return self._here(key)[0] or cold  # others were faster, and have a copy by now

    def _look(self, key: str, bodiless: bool, start: int, seen: int, known: str) -> Optional[Finding]:
        """Asks the cloud; whoever wants the same meanwhile waits for the same answer (DL-7).

        `known` is what to revalidate, if nobody has asked since `seen`.
        """
        with self._lock:
            look = self._looks.get((key, bodiless))
            if look is None:
                mine = self._looks[key, bodiless] = Future()
                is_so = self._looked == seen
        if look is not None:
            return look.result()
        try:
            mine.set_result(self._find(key, bodiless, start, known if is_so else None))
        except BaseException as error:  # noqa: BLE001  # raised below, in every thread that waits
            mine.set_exception(error)
        finally:
            with self._lock:
                del self._looks[key, bodiless]
                self._looked += 1
        return mine.result()

    def _find(self, key: str, bodiless: bool, start: int, known: Optional[str]) -> Optional[Finding]:
        if known is None:
            here, known = self._fresh(key)
            if here is not None:  # somebody has asked since we saw that we have to
                here.close()
                return CURRENT
        if known or bodiless:
            try:
                with self.timed("stat"):
                    properties = self.backend.stat(key)
            except OSError as error:
                if known and self._may_trust(error):
                    return CURRENT
                raise
            if properties is not None and properties.etag == known:
                self._note_current(key, known)
                return CURRENT
            if known:
                self._forget_version(key, known)
            if properties is None:
                return None
            if bodiless:
                return Finding(properties)
        return self._begin(key, start)

    def _forget_version(self, key: str, etag: str) -> None:
        """And not what came meanwhile."""
        here, _ = self._here(key)
        if here is not None:
            here.close()
            if here.etag == etag:
                self.forget(key)

    def _may_trust(self, error: OSError) -> bool:
        """Whether a failure of the cloud lets copies be given out unasked for a while (RFC 9111 4.2.4)."""
        passing = isinstance(error, (ConnectionError, TimeoutError)) or error.errno == errno.EBUSY
        if not passing or not self._revalidate_seconds:
            return False
        self._trusted_until = time.monotonic() + TRUST_SECONDS
        self.warn("backend-failed", f"copies are served unasked: {error}")
        return True

    def _note_current(self, key: str, etag: str) -> None:
        with self._lock:
            fill = self._fills.get(key)
            if fill is not None:
                fill.checked = time.time()
        if self._cache is not None:
            self._cache.touch(key, etag)

    def _begin(self, key: str, at: int) -> Optional[Finding]:
        """Asks for an object, from `at` on where it has such a byte; what lacks then, a fill gets by itself."""
        stop = at + (FIRST_BYTES if self._cache is None else FETCH_BYTES)
        with self.timed("read"):
            found = self.backend.read(key, at, stop)
        if found is None:
            return None
        properties, first, rest = found
        if at and not first:  # it ends before
            rest.close()
            return self._begin(key, 0)
        if properties.size and not first:
            raise ConnectionError("the storage sent nothing of what it has")
        if self._cache is None:
            rest.close()
            return Finding(properties, at, first)
        stop, ask = min(properties.size, stop), self._asker(key, properties)
        beginning = Beginning(at, first, unbroken(ask, at + len(first), stop, rest), stop, rest.close)
        return Finding(properties, at, first, self._new_fill(key, properties, beginning, ask))

    def _new_fill(self, key: str, properties: Properties, beginning: Beginning, ask: Ask) -> Fill:
        done = partial(self._end_fill, key)
        fill = Fill(self.new_copy, properties, beginning, partial(unbroken, ask), done, self._fetches)
        with self._lock:
            self._fills[key] = fill
        return fill

    def _asker(self, key: str, properties: Properties) -> Ask:
        def ask(start: int, stop: int) -> tuple[bytes, Rest]:
            with self.timed("read"):
                found = self.backend.read(key, start, stop, properties.etag)
            if found is None:
                raise OSError(errno.ESTALE, "the object is not the one that was begun")
            return found[1], found[2]

        return ask

    def _end_fill(self, key: str, fill: Fill, copy: Optional[CacheCopy]) -> None:
        """Publishes the copy, unless the object was replaced meanwhile."""
        if fill.disk_error is not None:
            self.cannot_cache(fill.disk_error)
        with self._lock:
            if self._fills.get(key) is not fill:
                return
            try:
                if copy is not None:
                    self._publish(key, copy, fill.properties)
            except OSError as error:
                self.cannot_cache(error)
            finally:
                del self._fills[key]

    def _publish(self, key: str, copy: CacheCopy, properties: Properties) -> None:
        copy.publish(key, properties.size, properties.etag, properties.modified, properties.content_type)
        self._spoilt.discard(key)

    # Writing

    def create(
        self, key: Optional[str], content_type: str = "", tags: Tags = ()
    ) -> contextlib.AbstractContextManager[CloudIncoming]:
        """A new object. Where its key is not known yet, all of it waits on the disk of the cache."""
        return contextlib.closing(CloudIncoming(self, key, content_type, tags))

    @contextlib.contextmanager
    def together(self, sizes: Mapping[str, int]) -> Iterator[None]:
        """Inside the block these keys are stored; the small ones at one request each, and not four (AR-3).

        Two listings tell which of them another server has, or no object may have. The others need no lock: each is
        stored by a single request, and is whole whoever stores the key meanwhile. (To Azure it is as if that other
        upload came first; blocks that it has not committed yet are gone, and it fails.)
        """
        small = [key for key, size in sizes.items() if size <= self.backend.BLOCK_BYTES]
        if len(small) > 1:
            with self.timed("survey"):
                free = self._folders.survey(small)
                if free and self._locks_others_out():
                    free &= self._leases.unlocked(small)
        else:
            free = set()
        self._together |= free
        try:
            yield
        finally:
            self._together -= free

    @contextlib.contextmanager
    def lease(self, key: str, seconds: float) -> Iterator[bool]:
        """Keeps other servers from writing the key inside the block; false where one has it for longer (UP-9)."""
        if key in self._together:
            yield True
            return
        self._folders.begin(key)
        try:
            with self._lease(key, seconds) as ours:
                yield ours
        finally:
            self._folders.forget(key)

    @contextlib.contextmanager
    def _lease(self, key: str, seconds: float) -> Iterator[bool]:
        if not self._locks_others_out():
            yield True
            return
        with self.timed("lease"):
            ours = self._leases.acquire(key, seconds)
        try:
            yield ours
        finally:
            if ours:
                self._leases.release(key)

    def _locks_others_out(self) -> bool:
        """Whether the account allows locks, which the first uploads find out: each by itself, for it may take long."""
        if self._cluster is None:
            self._cluster = honours_conditions(self.backend)
            if not self._cluster:
                self.warn("lock-scope", "this storage cannot lock: uploads through other servers may collide")
        return self._cluster

    def remove_dead_locks(self) -> None:
        """For the housekeeping: what servers that crashed have left."""
        if self._cluster:
            self._leases.remove_dead()

    def before_commit(self, key: str) -> None:
        """Lets those who read the version before have all of it (DL-6), and sees to it that the key may be ours yet."""
        if key not in self._together:
            with self.timed("folders"):
                self._folders.check(key)
        fill = self._fills.get(key)
        if fill is not None:
            fill.start()
            fill.over.wait(LET_FILL_SECONDS)
        self._leases.check(key)

    def after_commit(self, key: str, copy: Optional[CacheCopy], properties: Properties) -> None:
        """Writes through: the copy that was made on the way is the current one (CH-2)."""
        with self._lock:
            self._fills.pop(key, None)
        try:
            if copy is not None:
                self._publish(key, copy, properties)
        except OSError as error:
            self.cannot_cache(error)
            copy = None
        if copy is None:
            self.forget(key)

    def forget(self, key: str) -> None:
        """No copy of this object is good any more."""
        with self._lock:
            self._fills.pop(key, None)
        try:
            if self._cache is not None:
                self._cache.drop(key)
        except OSError as error:
            self._spoilt.add(key)
            self.cannot_cache(error)

    def new_copy(self) -> Optional[CacheCopy]:
        """A copy to be made; None where there cannot be one."""
        try:
            return None if self._cache is None else self._cache.create()
        except OSError as error:
            self.cannot_cache(error)
            return None

    def cannot_cache(self, error: OSError) -> None:
        self.warn("cache-failed", f"objects pass the cache by: {error.strerror or error}")

    # The rest

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys with this prefix, page by page (LS-1)."""
        return (key for key in self.backend.keys(prefix) if not key.startswith(PRIVATE))

    def warn(self, event: str, text: str) -> None:
        """Tells the operator, once a minute for each event."""
        now = time.monotonic()
        with self._warning:
            if now - self._warned.get(event, -QUIET_SECONDS) < QUIET_SECONDS:
                return
            self._warned[event] = now
        self._warn(event, text)

    @contextlib.contextmanager
    def timed(self, operation: str) -> Iterator[None]:
        """Measures what the back end takes (MT-1)."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._took(operation, time.monotonic() - began)

    def close(self) -> None:
        with self._lock:
            for fill in self._fills.values():
                fill.give_up()
        self._leases.close()
        self._folders.close()
        self.backend.close()
