"""Cold objects (DL-7): fetched once for all who read meanwhile, who get what is there as it comes, into a copy on disk.

Fill    fetches an object into a file, first what somebody waits for
Cold    reads it: what is there, waits for what comes, and fetches for itself where the fill ended early
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional, Protocol

FIRST_BYTES = 65_536  # enough for most objects, and for the beginning of a range from the middle of one
FETCH_BYTES = 8 << 20  # asked for at once. Measured: of up to 4 MiB of a larger object Azurite takes a digest first
FETCHERS = 4  # requests at once for one object
FETCHES = 32  # and for all
SEND_BYTES = 262_144  # handed out at once


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


class Rest(Protocol):
    """What of an object is still to come. It is read once; whoever does not, or not to its end, closes it."""

    def __iter__(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class Copy(Protocol):
    """A file in the making."""

    @property
    def descriptor(self) -> int: ...
    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


Fetch = Callable[[int, int], Rest]  # the bytes [start, stop) of one version, all of them, as they arrive


class Absent:
    """Bytes [at, stop) that the copy lacks; `taken`: they are on the way, and `at` moves on as they arrive."""

    def __init__(self, at: int, stop: int, taken: bool = False) -> None:
        self.at, self.stop, self.taken = at, stop, taken


class Beginning(NamedTuple):
    """What came first of an object: bytes from `at` on, and the rest of those before `stop`, as they arrive."""

    at: int
    first: bytes
    rest: Rest
    stop: int
    release: Callable[[], None]  # lets go of the rest, read or not


class Fill:
    """An object that has begun to come; `fetch` gives what else there is of it.

    It is started by the first reader who waits for more, or has had enough: nothing holds up the first bytes. What
    somebody waits for comes next. When something cannot be had, or the disk takes no more, the fill is over: what is
    there stays readable, and each reader fetches what lacks for itself. At the end `done` gets the copy if it is whole.
    """

    def __init__(
        self,
        new_copy: Callable[[], Optional[Copy]],
        properties: Properties,
        beginning: Beginning,
        fetch: Fetch,
        done: Callable[[Fill, Optional[Copy]], None],
        turns: threading.BoundedSemaphore,
    ) -> None:
        self.properties, self.at, self.first, self.fetch = properties, beginning.at, beginning.first, fetch
        self.checked = time.time()  # when the version was last known to be current
        self.disk_error: Optional[OSError] = None
        self.over = threading.Event()
        self._new_copy, self._done, self._release, self._turns = new_copy, done, beginning.release, turns
        self._copy: Optional[Copy] = None
        self._readers = 0
        self._changed = threading.Condition()
        begun = Absent(self.at, beginning.stop, taken=True)
        self._begun: Optional[tuple[Absent, Rest]] = begun, beginning.rest
        gaps = Absent(0, self.at), begun, Absent(begun.stop, properties.size)
        self._absent = [gap for gap in gaps if gap.at < gap.stop]
        self._wanted = begun.stop  # where the fetchers go on
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
            missing = 0 if self._broken else sum(gap.stop - gap.at for gap in self._absent)
            for _ in range(min(FETCHERS, -(-missing // FETCH_BYTES))):
                with self._changed:
                    self._fetchers += 1
                self._employ()
        finally:
            self._leave()

    def _begin_copy(self) -> None:
        self._copy = self._new_copy()
        assert self._begun is not None
        if self._copy is None:
            self.give_up()
            return
        try:
            self._take_in(self.first, self._begun[0])
        except OSError:
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
            while (taken := self._take()) is not None:
                with self._turns:
                    self._fetch(*taken)
        except Exception:  # noqa: BLE001  # a reader that fetches for itself finds out, and says, what it is
            self.give_up()
        finally:
            self._leave()

    def _take(self) -> Optional[tuple[Absent, Rest]]:
        """What to fetch next: from where somebody waits to the end, then from the beginning."""
        with self._changed:
            if self._broken:
                return None
            if self._begun is not None:
                begun, self._begun = self._begun, None
                return begun
            free = [gap for gap in self._absent if not gap.taken]
            if not free:
                return None
            taken = self._cut(min(free, key=lambda gap: (gap.stop <= self._wanted, gap.at)))
            self._wanted = taken.stop
            return taken, self.fetch(taken.at, taken.stop)

    def _cut(self, gap: Absent) -> Absent:
        """Takes of a gap what somebody waits for, or its beginning, and no more than is asked for at once."""
        at = self._wanted if gap.at < self._wanted < gap.stop else gap.at
        taken = Absent(at, min(gap.stop, at + FETCH_BYTES), taken=True)
        parts = Absent(gap.at, at), taken, Absent(taken.stop, gap.stop)
        self._absent.remove(gap)
        self._absent += [part for part in parts if part.at < part.stop]
        return taken

    def _fetch(self, gap: Absent, pieces: Rest) -> None:
        with contextlib.closing(pieces):
            for piece in pieces:
                self._take_in(piece, gap)
                if self._broken:
                    return

    def _take_in(self, piece: bytes, gap: Absent) -> None:
        self._store(piece, gap.at)
        with self._changed:
            gap.at += len(piece)
            self._absent = [other for other in self._absent if other.at < other.stop]
            self._changed.notify_all()

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
        self._release()
        whole = not self._absent and not self._broken
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

    def there_until(self, at: int) -> int:
        """Where the bytes that are there from `at` on end: at once, where that one is not."""
        with self._changed:  # or once more, in `wait_for`
            return max(at, min((gap.at for gap in self._absent if at < gap.stop), default=self.properties.size))

    def read(self, start: int, stop: int) -> bytes:
        """Bytes that are there, for one who joined."""
        assert self._copy is not None
        return os.pread(self._copy.descriptor, stop - start, start)

    def wait_for(self, at: int) -> int:
        """Waits for the byte at `at`: where those that are there from it on end; `at` itself where it does not come."""
        with self._changed:
            if any(gap.at <= at < gap.stop and not gap.taken for gap in self._absent):
                self._wanted = at
        self.start()
        with self._changed:
            self._changed.wait_for(lambda: self.there_until(at) > at or self._broken or not self._fetchers)
            return self.there_until(at)


class Cold:
    """A cold object: its first bytes are here, the others come through a fill, or else past the cache. One thread."""

    descriptor, content, state = -1, None, "uncached"

    def __init__(self, properties: Properties, first: bytes, fetch: Fetch, fill: Optional[Fill], at: int = 0) -> None:
        """`first` are its bytes from `at` on."""
        self.size, self.etag = properties.size, properties.etag
        self.modified, self.content_type = properties.modified, properties.content_type
        self._at, self._first, self._fetch = at, first, fetch
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
        first = self._first[start - self._at : stop - self._at] if self._at <= start else b""
        if first:
            yield first
        elif start < stop and not (self._fill is not None and self._fill.there_until(start) > start):
            end = min(stop, start + FIRST_BYTES)
            yield from self._fetch(start, end)  # far from what is being fetched
            start = end
        start += len(first)
        while start < stop:
            end = min(stop, self._fill.wait_for(start) if self._fill is not None else start)
            if end > start:
                yield from self._filled(start, end)
            else:
                end = min(stop, start + FETCH_BYTES)
                yield from self._fetch(start, end)
            start = end

    def _filled(self, start: int, stop: int) -> Iterator[bytes]:
        assert self._fill is not None
        for at in range(start, stop, SEND_BYTES):
            yield self._fill.read(at, min(stop, at + SEND_BYTES))
