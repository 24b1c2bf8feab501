"""Cold objects (DL-7): fetched once, in blocks, for all who read meanwhile, while a copy of them comes to be on disk.

Fill    fetches an object into a file, first what somebody waits for
Cold    reads it: what is there, waits for what comes, and fetches for itself where the fill ended early
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Callable, Optional, Protocol

FIRST_BYTES = 65_536  # asked for before anything is known of an object, and enough for most: the first byte comes soon
FETCH_BYTES = 2 << 20  # of all further requests
FETCHERS = 4  # requests at once for one object
FETCHES = 32  # and for all: the memory that fills may take is FETCHES * FETCH_BYTES
SEND_BYTES = 262_144  # handed out at once


def block_bounds(number: int, size: int) -> tuple[int, int]:
    """The bytes of a block. Block 0 is what came first; all others but the last end at a multiple of FETCH_BYTES."""
    if number == 0:
        return 0, min(size, FIRST_BYTES)
    return max(FIRST_BYTES, (number - 1) * FETCH_BYTES), min(size, number * FETCH_BYTES)


def block_of(position: int) -> int:
    return 0 if position < FIRST_BYTES else position // FETCH_BYTES + 1


class Properties(Protocol):
    """Of one version of an object."""

    @property
    def size(self) -> int: ...  # bytes
    @property
    def etag(self) -> str: ...  # strong, with its quotes
    @property
    def modified(self) -> int: ...  # seconds since the epoch
    @property
    def content_type(self) -> str: ...  # "" where nobody said


class Copy(Protocol):
    """A file in the making."""

    @property
    def descriptor(self) -> int: ...
    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


Fetch = Callable[[int, int], bytes]  # the bytes [start, stop) of one version


class Fill:
    """An object of which the first bytes are here, and which is to be fetched into a copy.

    It is started by the first reader who waits for more, or has had enough: nothing holds up the first bytes. Blocks
    that somebody waits for come next. When one cannot be had, or the disk takes no more, the fill is over: what is
    there stays readable, and each reader fetches the rest for itself. `done` gets the copy, if it is whole, at the end.
    """

    def __init__(
        self,
        new_copy: Callable[[], Optional[Copy]],
        properties: Properties,
        first: bytes,
        fetch: Fetch,
        done: Callable[[Fill, Optional[Copy]], None],
    ) -> None:
        self.properties, self.first, self.fetch = properties, first, fetch
        self.checked = time.time()  # when the version was last known to be current
        self.disk_error: Optional[OSError] = None
        self.over = threading.Event()
        self._new_copy, self._done = new_copy, done
        self._copy: Optional[Copy] = None
        self._readers = 0
        self._changed = threading.Condition()
        self._there = {0}
        self._missing = set(range(1, block_of(properties.size - 1) + 1))  # not there, and not on the way
        self._count = len(self._missing) + 1
        self._next = 1  # where the fetchers go on
        self._fetchers = 1  # who starts it is one of them, until there are others
        self._broken = self._started = False

    def start(self) -> None:
        """Does nothing but the first time; then it returns when the first bytes are in the copy."""
        with self._changed:
            if self._started:
                return
            self._started = True
        try:
            self._begin_copy()
            for _ in range(min(FETCHERS, len(self._missing)) if self._copy else 0):
                with self._changed:
                    self._fetchers += 1
                self._employ()
        finally:
            self._leave()

    def _begin_copy(self) -> None:
        self._copy = self._new_copy()
        if self._copy is None:
            self.give_up()
            return
        try:
            self._copy.write(self.first)
        except OSError as error:
            self.disk_error = error
            self.give_up()

    def _employ(self) -> None:
        try:
            threading.Thread(target=self._work, name="fill", daemon=True).start()
        except RuntimeError:  # no more threads to be had: those that run do it all
            self._leave()

    def give_up(self) -> None:
        """Fetches nothing more."""
        with self._changed:
            self._broken = True

    def _work(self) -> None:
        try:
            while (number := self._take()) is not None:
                start, stop = block_bounds(number, self.properties.size)
                self._store(self.fetch(start, stop), start)
                with self._changed:
                    self._there.add(number)
                    self._changed.notify_all()
        except Exception:  # noqa: BLE001  # a reader that fetches for itself finds out, and says, what it is
            self.give_up()
        finally:
            self._leave()

    def _take(self) -> Optional[int]:
        """The next block to fetch: from where somebody waits to the end, then from the beginning."""
        with self._changed:
            if self._broken or not self._missing:
                return None
            number = self._next
            if number not in self._missing:
                number = min((later for later in self._missing if later > number), default=min(self._missing))
            self._missing.remove(number)
            self._next = number + 1
            return number

    def _store(self, data: bytes, at: int) -> None:
        assert self._copy is not None
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._copy.descriptor, view, at)
                view, at = view[written:], at + written
        except OSError as error:
            self.disk_error = error
            raise

    def _leave(self) -> None:
        """The last fetcher to leave ends the fill."""
        with self._changed:
            self._fetchers -= 1
            self._changed.notify_all()
            if self._fetchers:
                return
        whole = len(self._there) == self._count and not self._broken
        try:
            self._done(self, self._copy if whole else None)
        finally:
            with self._changed:
                self.over.set()
                self._let_go()

    def join(self) -> bool:
        """A reader more; False where the fill is over."""
        with self._changed:
            self._readers += not self.over.is_set()
            return not self.over.is_set()

    def part(self) -> None:
        """A reader less."""
        self.start()
        with self._changed:
            self._readers -= 1
            self._let_go()

    def _let_go(self) -> None:
        if self._copy is not None and self.over.is_set() and not self._readers:
            self._copy.close()

    def is_there(self, number: int) -> bool:
        return number in self._there

    def read(self, start: int, stop: int) -> bytes:
        """Bytes of a block that is there, for one who joined."""
        assert self._copy is not None
        return os.pread(self._copy.descriptor, stop - start, start)

    def has(self, number: int) -> bool:
        """Waits for a block; False where it does not come."""
        self.start()
        with self._changed:
            if number in self._missing:
                self._next = number
            self._changed.wait_for(lambda: number in self._there or self._broken or not self._fetchers)
            return number in self._there


class Cold:
    """A cold object: its first bytes are here, the others come through a fill, or else past the cache. One thread."""

    descriptor, content, state = -1, None, "uncached"

    def __init__(self, properties: Properties, first: bytes, fetch: Fetch, fill: Optional[Fill]) -> None:
        self.size, self.etag = properties.size, properties.etag
        self.modified, self.content_type = properties.modified, properties.content_type
        self._first, self._fetch = first, fetch
        self._fill = fill if fill is not None and fill.join() else None

    @property
    def follows(self) -> bool:
        """Whether there is a fill to read from; else all but the first bytes have to be fetched once more."""
        return self._fill is not None

    def close(self) -> None:
        fill, self._fill = self._fill, None
        if fill is not None:
            fill.part()

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) as they arrive. Raises what the back end raises."""
        if len(self._first) <= start < stop and not (self._fill is not None and self._fill.is_there(block_of(start))):
            end = min(stop, start + FIRST_BYTES)  # a range from the middle: a whole block takes longer to come
            yield self._fetch(start, end)
            start = end
        while start < stop:
            end = min(stop, block_bounds(block_of(start), self.size)[1])
            yield from self._part_of_block(start, end)
            start = end

    def _part_of_block(self, start: int, end: int) -> Iterator[bytes]:
        if end <= len(self._first):
            yield self._first[start:end]
        elif self._fill is not None and self._fill.has(block_of(start)):
            for at in range(start, end, SEND_BYTES):
                yield self._fill.read(at, min(end, at + SEND_BYTES))
        else:
            yield self._fetch(start, end)
