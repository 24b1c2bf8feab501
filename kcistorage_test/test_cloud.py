"""The cloud driver over a back end in memory, which stops at any request, fails it, or answers it wrongly.

(CH-2, DL-6, DL-7, UP-8 to UP-10, LS-1). Sizes are small here: of an object the first 16 bytes are asked for, then 64 at
once; an upload goes in blocks of 32.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Protocol, TypeVar, Union

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from kcistorage_parts import cloud, fills, folders, leases
from kcistorage_parts.cache import Cache, Entry
from kcistorage_parts.cache import Copy as FileCopy
from kcistorage_parts.cloud import CloudDriver, Hit, Tags
from kcistorage_parts.fills import Cold

T = TypeVar("T")
FIRST, FETCH, BLOCK, SEND = 16, 64, 32, 10
SIZE = 300  # of most objects: it takes five requests to fetch
KEY, TYPE, TAGS = "job/x.bin", "application/x-test", [("owner", "lab@example.org")]
ANCIENT = 3_600.0  # seconds: longer than any copy is trusted


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (fills, cloud):
            patch.setattr(module, "FIRST_BYTES", FIRST)
            patch.setattr(module, "SEND_BYTES", SEND)
            patch.setattr(module, "FETCH_BYTES", FETCH)
        patch.setattr(leases, "RENEW_SECONDS", 0.05)
        yield


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, "big") if size else b""


PASSING = [ConnectionError("away"), TimeoutError("silent"), OSError(errno.EBUSY, "503")]
OLD, NEW = some_bytes(SIZE, 1), some_bytes(SIZE + 7, 2)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits for what another thread is about to do, and tells nobody of."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.001)


# ---- A back end


class Properties(NamedTuple):
    size: int
    etag: str
    modified: int
    content_type: str


class Asked(NamedTuple):
    """One request. `write` and `commit` are those of an upload in blocks, `rest` is what arrives later of a read."""

    what: str
    key: str
    start: int = 0
    stop: int = 0
    etag: str = ""


Hits = Callable[[Asked], bool]


def asks(what: str, key: str = KEY, least: int = 0) -> Hits:
    """Requests of this kind for this object; of reads all that is from byte `least` on."""
    kinds = (what, "rest") if least else (what,)
    return lambda asked: asked.what in kinds and asked.key == key and asked.start >= least


class Gate:
    """Requests that it hits stop until it is opened."""

    def __init__(self, hits: Hits) -> None:
        self.hits = hits
        self._arrived, self._opened = threading.Semaphore(0), threading.Event()

    def stop(self) -> None:
        self._arrived.release()
        assert self._opened.wait(30), "a gate was never opened"

    def await_arrivals(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._arrived.acquire(timeout=10), "a request never came"

    def sees_one_within(self, seconds: float) -> bool:
        return self._arrived.acquire(timeout=seconds)

    def open(self) -> None:
        self._opened.set()


class Trouble(NamedTuple):
    """Requests that fail with `error`: the next few, or all; `late`: after they were carried out."""

    hits: Hits
    error: BaseException
    times: Iterator[object]
    late: bool


class Incoming:
    """An object in blocks. All but the last one have to be full."""

    def __init__(self, backend: Memory, key: str, content_type: str) -> None:
        self._backend, self._key, self._content_type = backend, key, content_type
        self._blocks: list[bytes] = []

    def __enter__(self) -> Incoming:
        self._backend.open_uploads += 1
        return self

    def __exit__(self, *exception: object) -> None:
        self._backend.open_uploads -= 1

    def write(self, block: bytes) -> None:
        with self._backend.asked_for(Asked("write", self._key)):
            assert 0 < len(block) <= BLOCK
            assert all(len(block) == BLOCK for block in self._blocks)
            self._blocks.append(block)

    def commit(self) -> Properties:
        with self._backend.asked_for(Asked("commit", self._key)):
            return self._backend.store(self._key, b"".join(self._blocks), self._content_type)


class Memory:
    """Objects in memory, to the letter of what `cloud.Backend` asks for; but for conditions that it ignores."""

    BLOCK_BYTES = BLOCK

    def __init__(self, *ignored: str) -> None:
        self.objects: dict[str, tuple[Properties, bytes]] = {}
        self.asked: list[Asked] = []
        self.gates: list[Gate] = []
        self.open_uploads = 0
        self.users = 0  # servers that have not closed it
        self.altered: Callable[[Asked, bytes], bytes] = lambda asked, data: data  # what a read gives
        self._troubles: list[Trouble] = []
        self._ignored, self._versions, self._lock = ignored, itertools.count(1), threading.RLock()

    def gate(self, hits: Hits) -> Gate:
        self.gates.append(Gate(hits))
        return self.gates[-1]

    def fail(self, hits: Hits, error: BaseException, times: Optional[int] = None, late: bool = False) -> None:
        count: Iterator[object] = itertools.repeat(0) if times is None else iter(range(times))
        self._troubles.append(Trouble(hits, error, count, late))

    def recover(self) -> None:
        self._troubles.clear()

    def store(self, key: str, data: bytes, content_type: str = TYPE) -> Properties:
        with self._lock:
            version = next(self._versions)
            properties = Properties(len(data), f'"0x{version}"', 1_700_000_000 + version, content_type)
            self.objects[key] = properties, data
            return properties

    @contextlib.contextmanager
    def asked_for(self, asked: Asked) -> Iterator[None]:
        """A request: noted, stopped, failed."""
        assert self.users > 0
        self.asked.append(asked)
        for gate in self.gates:
            if gate.hits(asked):
                gate.stop()
        self._fail(asked, False)
        yield
        self._fail(asked, True)

    def _fail(self, asked: Asked, late: bool) -> None:
        for trouble in self._troubles:
            if trouble.late == late and trouble.hits(asked) and next(trouble.times, None) is not None:
                raise trouble.error

    def of(self, key: str, *kinds: str) -> list[Asked]:
        """What was asked for an object, in order; of some kinds only."""
        return [asked for asked in self.asked if asked.key == key and (not kinds or asked.what in kinds)]

    # What a back end has to have

    def stat(self, key: str) -> Optional[Properties]:
        with self.asked_for(Asked("stat", key)):
            return self.objects[key][0] if key in self.objects else None

    def read(self, key: str, start: int, stop: int, etag: str = "") -> Optional[tuple[Properties, bytes, fills.Rest]]:
        asked = Asked("read", key, start, stop, etag)
        with self.asked_for(asked):
            properties, data = self.objects.get(key, (None, b""))
            if etag and (properties is None or properties.etag != etag):
                raise OSError(errno.ESTALE, "that version is gone")
            if properties is None:
                return None
            data = self.altered(asked, data[start:stop])
            return properties, data[:FIRST], self._rest(asked, data)

    def _rest(self, asked: Asked, data: bytes) -> Generator[bytes, None, None]:
        for at in range(FIRST, len(data), SEND):
            with self.asked_for(asked._replace(what="rest", start=asked.start + at)):
                yield data[at : at + SEND]

    def put(self, key: str, data: bytes, content_type: str, tags: Tags) -> Properties:
        with self.asked_for(Asked("put", key)):
            assert len(data) <= BLOCK
            return self.store(key, data, content_type)

    def upload(self, key: str, content_type: str, tags: Tags) -> Incoming:
        return Incoming(self, key, content_type)

    def keys(self, prefix: str) -> Iterator[str]:
        with self.asked_for(Asked("list", prefix)):
            pass
        for key in sorted(self.objects):
            with self.asked_for(Asked("list", key)):
                if key.startswith(prefix):
                    yield key

    def delete(self, key: str, etag: str = "") -> bool:
        with self.asked_for(Asked("delete", key, etag=etag)), self._lock:
            if key not in self.objects or etag not in ("", self.objects[key][0].etag):
                return False
            del self.objects[key]
            return True

    def claim(self, key: str, etag: str, data: bytes) -> str:
        with self.asked_for(Asked("claim", key, etag=etag)), self._lock:
            there = self.objects[key][0].etag if key in self.objects else ""
            ignored = ("If-Match" if etag else "If-None-Match") in self._ignored
            return self.store(key, data).etag if there == etag or ignored else ""

    def close(self) -> None:
        self.users -= 1


# ---- Disks that take no copies


class SickCopy:
    """A copy on a sick disk."""

    def __init__(self, copy: FileCopy, disk: SickDisk) -> None:
        self._copy, self._disk = copy, disk
        self._full = os.open("/dev/full", os.O_RDWR) if "pwrite" in disk.sick else -1

    @property
    def descriptor(self) -> int:
        return self._copy.descriptor if self._full < 0 else self._full

    def write(self, data: bytes) -> None:
        self._disk.check("write")
        self._copy.write(data)

    def publish(self, key: str, size: int, etag: str, modified: int, content_type: str) -> None:
        self._disk.check("publish")
        self._copy.publish(key, size, etag, modified, content_type)

    def close(self) -> None:
        self._copy.close()
        full, self._full = self._full, -1
        if full >= 0:
            os.close(full)


class SickDisk:
    """A cache on a disk that fails with `sick[step]` at create, write, pwrite, publish and drop."""

    def __init__(self, cache: Cache, sick: dict[str, int]) -> None:
        self._cache, self.sick = cache, sick
        self.open, self.touch = cache.open, cache.touch

    def check(self, step: str) -> None:
        if step in self.sick:
            raise OSError(self.sick[step], os.strerror(self.sick[step]))

    def create(self) -> SickCopy:
        self.check("create")
        return SickCopy(self._cache.create(), self)

    def drop(self, key: str) -> None:
        self.check("drop")
        self._cache.drop(key)


# ---- Servers


def open_files(folder: Path) -> list[str]:
    """What this process has open below a folder."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [path for path in found if path.startswith(str(folder))]


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("fill", "lease"))]


class World:
    """A back end, and servers over it. When it is closed, nothing of them may be left (UP-8)."""

    def __init__(self, folder: Path, backend: Optional[Memory] = None) -> None:
        self.folder, self.backend = folder, backend or Memory()
        self.warned: list[tuple[str, str]] = []
        self.private_left = 0  # objects of ours that a test expects to stay behind
        self.servers: list[CloudDriver] = []
        self._pool = ThreadPoolExecutor(16, "test")

    def cache(self, name: str = "a") -> Cache:
        return Cache(str(self.folder / name))

    def warn(self, event: str, text: str) -> None:
        self.warned.append((event, text))

    def over(
        self,
        cache: Optional[cloud.Cache],
        revalidate_seconds: float = 60.0,
        cluster: bool = True,
        took: Callable[[str, float], None] = lambda operation, seconds: None,
    ) -> CloudDriver:
        """A server with this cache."""
        self.backend.users += 1
        self.servers.append(CloudDriver(self.backend, cache, revalidate_seconds, cluster, self.warn, took))
        return self.servers[-1]

    def server(self, name: str = "a", revalidate_seconds: float = 60.0) -> CloudDriver:
        """A server with a cache in the folder of this name, of which it knows nothing yet."""
        return self.over(self.cache(name), revalidate_seconds)

    def aged_server(self, name: str = "a", revalidate_seconds: float = 60.0, age: float = ANCIENT) -> CloudDriver:
        """A server all of whose copies were last checked so many seconds ago."""
        for path in (self.folder / name).rglob("*.headers"):
            os.utime(path, (time.time() - age, time.time() - age))
        return self.server(name, revalidate_seconds)

    def copies(self) -> int:
        """How many copies lie in all caches."""
        return len(list(self.folder.rglob("*.content")))

    def begin(self, call: Callable[[], T]) -> Future[T]:
        return self._pool.submit(call)

    def let_fills_end(self) -> None:
        for thread in own_threads():
            if thread.name == "fill":
                thread.join(10)
                assert not thread.is_alive()

    def close(self) -> None:
        for gate in self.backend.gates:
            gate.open()
        self._pool.shutdown()
        self.let_fills_end()
        for server in self.servers:
            server.close()
        for thread in own_threads():
            thread.join(10)
        assert own_threads() == []
        assert open_files(self.folder) == []
        assert list(self.folder.glob("*/uploads/*")) == []
        assert self.backend.open_uploads == 0
        assert len([key for key in self.backend.objects if key.startswith(".metadata/")]) == self.private_left


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with contextlib.closing(World(tmp_path)) as world:
        yield world


Found = Union[Hit, Cold, None]


def span(found: Found, start: int = 0, stop: int = 1 << 20) -> bytes:
    """These bytes of an object, as the spine takes them; then it is closed."""
    assert found is not None
    with contextlib.closing(found):
        start, stop = min(start, found.size), min(stop, found.size)
        if found.content is not None:
            return found.content[start:stop]
        if found.descriptor >= 0:
            return os.pread(found.descriptor, stop - start, start)
        return b"".join(found.blocks(start, stop))


def begun(found: Found) -> Cold:
    """A cold object whose fill has been started."""
    assert isinstance(found, Cold)
    assert found._fill is not None
    found._fill.start()
    return found


class Head(Protocol):
    @property
    def size(self) -> int: ...
    @property
    def etag(self) -> str: ...
    @property
    def modified(self) -> int: ...
    @property
    def content_type(self) -> str: ...


def head(found: Head) -> Properties:
    return Properties(found.size, found.etag, found.modified, found.content_type)


def cached(server: CloudDriver, key: str = KEY) -> bool:
    found = server.open(key)
    assert found is not None
    found.close()
    return found.state == "cached"


def upload(server: CloudDriver, data: bytes, key: str = KEY, early: bool = True, piece: int = 7) -> str:
    """As the spine does it; `early`: the key is known before the bytes."""
    with contextlib.ExitStack() as held:
        if early:
            assert held.enter_context(server.lease(key, 5))
        incoming = held.enter_context(server.create(*((key, TYPE, TAGS) if early else (None,))))
        for at in range(0, len(data), piece):
            incoming.write(data[at : at + piece])
        if not early:
            assert held.enter_context(server.lease(key, 5))
        return incoming.commit(key, TYPE, TAGS)


def spans_read(backend: Memory, key: str = KEY) -> list[tuple[int, int]]:
    return sorted((asked.start, asked.stop) for asked in backend.of(key, "read"))


WHOLE = [(0, 64), (64, 128), (128, 192), (192, 256), (256, SIZE)]  # each byte of an object once


# ---- Cold objects (DL-7)


def test_many_readers_of_a_cold_object_cause_one_fetch(world: World) -> None:
    """DL-7"""
    world.backend.store(KEY, OLD)
    server, gate = world.server(), world.backend.gate(asks("read"))
    readers = [world.begin(lambda: span(server.open(KEY))) for _ in range(12)]
    gate.await_arrivals()
    gate.open()
    assert {reader.result() for reader in readers} == {OLD}
    world.let_fills_end()
    assert spans_read(world.backend) == WHOLE
    assert cached(server)


def test_a_reader_who_comes_as_the_fill_ends_fetches_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """DL-7: the thread that waited for the first bytes may run again when all the others are there already."""

    def join(fill: fills.Fill) -> bool:
        fill.start()
        assert fill.over.wait(10)
        return really_join(fill)

    really_join = fills.Fill.join
    monkeypatch.setattr(fills.Fill, "join", join)
    world.backend.store(KEY, OLD)
    server = world.server()
    assert span(server.open(KEY)) == OLD
    assert spans_read(world.backend) == WHOLE


def test_a_reader_who_finds_a_fill_that_ends_fetches_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """DL-7"""

    def join(fill: fills.Fill) -> bool:
        gate.open()
        assert fill.over.wait(10)
        return really_join(fill)

    really_join = fills.Fill.join
    world.backend.store(KEY, OLD)
    server, gate = world.server(), world.backend.gate(asks("read", least=FIRST))
    first = begun(server.open(KEY))
    monkeypatch.setattr(fills.Fill, "join", join)
    assert span(server.open(KEY)) == OLD
    assert span(first) == OLD
    assert spans_read(world.backend) == WHOLE


def test_the_first_byte_does_not_wait_for_the_last(world: World) -> None:
    """DL-7"""
    world.backend.store(KEY, OLD)
    gate = world.backend.gate(asks("read", least=FIRST))
    found = world.server().open(KEY)
    assert isinstance(found, Cold)
    blocks = found.blocks(0, SIZE)
    assert next(blocks) == OLD[:FIRST]
    gate.open()
    assert b"".join(blocks) == OLD[FIRST:]
    found.close()


@pytest.mark.parametrize("size", [0, 1, FIRST, SIZE])
def test_the_first_byte_waits_for_no_copy(world: World, size: int) -> None:
    """DL-7: the disk is asked for one when they are out; and whoever comes meanwhile fetches nothing."""
    world.backend.store(KEY, OLD[:size])
    server = world.server()
    found, other = server.open(KEY), server.open(KEY)
    assert isinstance(found, Cold)
    assert next(iter(found.blocks(0, size)), b"") == OLD[: min(size, FIRST)]
    assert not list(world.folder.rglob("uploads/*"))
    assert not world.copies()
    found.close()
    assert span(other) == OLD[:size]
    world.let_fills_end()
    assert cached(server)
    assert len(spans_read(world.backend)) == (len(WHOLE) if size == SIZE else 1)


def test_blocks_are_read_as_they_come(world: World) -> None:
    """DL-7: the second one while all later ones are held back."""
    world.backend.store(KEY, OLD)
    gate = world.backend.gate(asks("read", least=FETCH))
    found = world.server().open(KEY)
    assert isinstance(found, Cold)
    blocks = found.blocks(0, SIZE)
    assert b"".join(itertools.islice(blocks, 1 + 5)) == OLD[:FETCH]  # five pieces of up to SEND bytes
    gate.open()
    assert b"".join(blocks) == OLD[FETCH:]
    found.close()


def test_a_far_range_does_not_wait_for_what_is_before_it(world: World) -> None:
    """DL-7"""
    world.backend.store(KEY, OLD)
    gate = world.backend.gate(lambda asked: (asked.what, asked.start) == ("rest", FIRST))
    server = world.server()
    assert span(server.open(KEY), 250, 290) == OLD[250:290]
    gate.open()
    world.let_fills_end()
    alone = 250, 250 + FIRST  # where it begins
    assert spans_read(world.backend) == [*WHOLE[:4], alone, (256, alone[1]), (alone[1], SIZE)]


def test_a_range_of_what_is_there_fetches_nothing(world: World) -> None:
    """DL-7"""
    world.backend.store(KEY, OLD)
    server, gate = world.server(), world.backend.gate(asks("read", least=2 * FETCH))
    first = begun(server.open(KEY))
    until(lambda: first._fill is not None and first._fill.there_until(0) >= 2 * FETCH)
    assert span(server.open(KEY), FETCH + 1, 2 * FETCH) == OLD[FETCH + 1 : 2 * FETCH]
    gate.open()
    first.close()
    world.let_fills_end()
    assert spans_read(world.backend) == WHOLE


def test_what_somebody_waits_for_comes_next(world: World) -> None:
    """DL-7: four requests are under way when the range is asked for; the fifth one is for it."""
    data = some_bytes(20 * FETCH)
    world.backend.store(KEY, data)
    gate = world.backend.gate(lambda asked: asked.what == "rest")
    found = begun(world.server().open(KEY))
    gate.await_arrivals(4)
    far = world.begin(lambda: b"".join(found.blocks(15 * FETCH, 16 * FETCH)))
    wanted = 15 * FETCH + FIRST  # before that it asks for itself
    until(lambda: found._fill is not None and found._fill._wanted == wanted)
    gate.open()
    assert far.result() == data[15 * FETCH : 16 * FETCH]
    found.close()
    world.let_fills_end()
    asked = [(asked.start, asked.stop) for asked in world.backend.of(KEY, "read")]
    asked.remove((15 * FETCH, wanted))
    later = [(start, start + FETCH) for start in range(wanted, 19 * FETCH, FETCH)]
    assert sorted(asked[4:8]) == later, "and then what comes after it"
    ends = [stop for _, stop in sorted(asked)]
    assert [start for start, _ in sorted(asked)] == [0, *ends[:-1]], "each byte once"


def test_a_reader_that_leaves_does_not_stop_the_fill(world: World) -> None:
    """DL-7"""
    world.backend.store(KEY, OLD)
    server, gate = world.server(), world.backend.gate(asks("read", least=FIRST))
    leaving, staying = server.open(KEY), server.open(KEY)
    assert span(leaving, 0, FIRST) == OLD[:FIRST]
    gate.open()
    assert span(staying) == OLD
    world.let_fills_end()
    assert cached(server)
    assert spans_read(world.backend) == WHOLE


def test_a_fill_goes_on_when_all_readers_have_left(world: World) -> None:
    world.backend.store(KEY, OLD)
    server, gate = world.server(), world.backend.gate(asks("read", least=FIRST))
    span(server.open(KEY), 0, 1)
    gate.open()
    world.let_fills_end()
    assert cached(server)
    assert span(server.open(KEY)) == OLD
    assert spans_read(world.backend) == WHOLE


@given(
    size=st.integers(0, 400),
    start=st.integers(0, 400),
    length=st.integers(0, 400),
    hint=st.sampled_from((0, 1, FETCH, 250, 399)),
    here=st.booleans(),
)
@example(size=FIRST, start=0, length=FIRST, hint=0, here=True)
@example(size=FIRST + 1, start=FIRST, length=1, hint=FIRST, here=True)
@example(size=FETCH, start=FIRST, length=FETCH, hint=0, here=True)
@example(size=FETCH + 1, start=FETCH, length=1, hint=FETCH, here=True)
@example(size=4 * FETCH, start=FETCH - 1, length=FETCH + 2, hint=0, here=False)
@example(size=0, start=0, length=0, hint=1, here=True)
@settings(max_examples=80, deadline=None)
def test_any_span_of_any_cold_object(size: int, start: int, length: int, hint: int, here: bool) -> None:
    """Invariant: the bytes are the object's, wherever it was begun; also past the cache (DL-7)."""
    data = some_bytes(size)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(World(Path(folder))) as world:
        properties = world.backend.store(KEY, data)
        server = world.server() if here else world.over(None)
        found = server.open(KEY, start=hint)
        assert found is not None
        assert head(found) == properties
        assert span(found, start, start + length) == data[start : min(size, start + length)]
        world.let_fills_end()
        if here:
            assert cached(server)
        assert span(server.open(KEY)) == data


@given(size=st.integers(1, 400), start=st.integers(0, 399), length=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_a_range_is_begun_with(size: int, start: int, length: int) -> None:
    """DL-7: one request brings its first byte, and in the end each byte of the object was asked for once."""
    data, start = some_bytes(size), start % size
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(World(Path(folder))) as world:
        world.backend.store(KEY, data)
        server = world.server()
        found = server.open(KEY, start=start)
        assert spans_read(world.backend) == [(start, start + FETCH)]
        assert span(found, start, start + length) == data[start : start + length]
        world.let_fills_end()
        assert cached(server)
        spans = [(at, min(size, stop)) for at, stop in spans_read(world.backend)]
        assert [at for at, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
        assert spans[-1][1] == size
        assert span(server.open(KEY)) == data


def test_an_object_that_is_not_there(world: World) -> None:
    """DL-3"""
    server = world.server()
    assert server.open(KEY) is None
    assert server.open(KEY, bodiless=True) is None
    world.backend.store(KEY, OLD)
    assert span(server.open(KEY)) == OLD


# ---- Heads


def test_a_head_reads_no_bytes(world: World) -> None:
    """DL-1: cold, being filled, cached, and cached but not checked for long."""
    properties = world.backend.store(KEY, OLD)
    server, gate = world.server(), world.backend.gate(asks("read", least=FIRST))

    def seen(server: CloudDriver) -> Properties:
        found = server.open(KEY, bodiless=True)
        assert found is not None
        found.close()
        return head(found)

    assert seen(server) == properties
    assert [asked.what for asked in world.backend.asked] == ["stat"]
    reader = server.open(KEY)
    assert seen(server) == properties
    gate.open()
    assert span(reader) == OLD
    world.let_fills_end()
    assert seen(server) == properties
    assert seen(world.aged_server()) == properties
    assert [asked.what for asked in world.backend.of(KEY, "stat")] == ["stat", "stat"]
    assert spans_read(world.backend) == WHOLE


def test_a_head_leaves_alone_what_comes_to_be_here_meanwhile(world: World) -> None:
    """DL-7: the fill of a GET that began while the HEAD was under way is kept."""
    world.backend.store(KEY, OLD)
    server, gate = world.server(), world.backend.gate(asks("read", least=FIRST))
    stat = world.backend.gate(asks("stat"))
    bodiless = world.begin(lambda: server.open(KEY, bodiless=True))
    stat.await_arrivals()
    reader = server.open(KEY)
    stat.open()
    assert bodiless.result() is not None
    gate.open()
    assert span(reader) == OLD
    world.let_fills_end()
    assert span(server.open(KEY)) == OLD
    assert spans_read(world.backend) == WHOLE


# ---- Fills that fail (DL-7)


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_readers_go_on_by_themselves_when_a_fill_fails(world: World, error: OSError) -> None:
    world.backend.store(KEY, OLD)
    world.backend.fail(asks("read", least=2 * FETCH), error, times=1)
    server, gate = world.server(), world.backend.gate(asks("read", least=FIRST))
    readers = [server.open(KEY) for _ in range(3)]
    contents = [world.begin(lambda reader=reader: span(reader)) for reader in readers]  # type: ignore[misc]
    gate.open()
    assert {content.result() for content in contents} == {OLD}
    world.let_fills_end()
    assert world.copies() == 0, "a fetch that broke is in the cache"
    assert span(server.open(KEY)) == OLD
    world.let_fills_end()
    assert cached(server), "nobody fetched it again"


def test_a_fill_that_fails_fetches_no_more(world: World) -> None:
    """DL-7: but for what is under way."""
    world.backend.store(KEY, some_bytes(20 * FETCH))
    hits: Hits = lambda asked: asked.start == FIRST  # noqa: E731  # the rest, and what is asked for in its place
    world.backend.fail(hits, ConnectionError("cut"))
    server, failing, gate = world.server(), world.backend.gate(hits), world.backend.gate(asks("read", least=FETCH))
    found = begun(server.open(KEY))
    gate.await_arrivals(3)
    failing.open()
    until(lambda: found._fill is not None and found._fill._fetchers == 3)
    gate.open()
    found.close()
    world.let_fills_end()
    assert len(spans_read(world.backend)) == 1 + 4


def test_a_fetch_with_a_hole_is_no_copy(world: World) -> None:
    """DL-7: all blocks but one are there, and so the size is right."""
    world.backend.store(KEY, OLD)
    hits: Hits = lambda asked: (asked.what, asked.start) == ("read", 2 * FETCH)  # noqa: E731
    world.backend.fail(hits, ConnectionError("cut"))
    server, gate = world.server(), world.backend.gate(hits)
    found = begun(server.open(KEY))
    until(lambda: found._fill is not None and [gap.at for gap in found._fill._absent] == [2 * FETCH])
    gate.open()
    found.close()
    world.let_fills_end()
    assert world.copies() == 0
    assert span(server.open(KEY), 0, FETCH) == OLD[:FETCH]


@pytest.mark.parametrize("error", [ConnectionError("cut"), MemoryError("no room")], ids=repr)
def test_what_cannot_be_had_is_an_error_and_not_a_wait(world: World, error: Exception) -> None:
    """DL-7: what came before it is read; nothing is kept."""
    world.backend.store(KEY, OLD)
    world.backend.fail(asks("read", least=2 * FETCH), error)
    server = world.server()
    found = server.open(KEY)
    assert isinstance(found, Cold)
    received: list[bytes] = []

    def read_all() -> None:
        with contextlib.closing(found):
            received.extend(found.blocks(0, SIZE))

    with pytest.raises(type(error), match=str(error)):
        world.begin(read_all).result(10)
    assert OLD.startswith(b"".join(received))
    assert len(b"".join(received)) >= FIRST
    world.let_fills_end()
    assert world.copies() == 0
    world.backend.recover()
    assert span(server.open(KEY)) == OLD


@pytest.mark.parametrize("error", [ConnectionError("away"), PermissionError(errno.EACCES, "403")], ids=repr)
def test_a_cold_object_that_cannot_be_had_at_all(world: World, error: OSError) -> None:
    """DL-7: each of those who wait is told; the next one asks again."""
    world.backend.store(KEY, OLD)
    world.backend.fail(asks("read"), error, times=1)
    server, gate = world.server(), world.backend.gate(asks("read"))
    openers = [world.begin(lambda: server.open(KEY)) for _ in range(4)]
    gate.await_arrivals()
    until(lambda: sum(opener.running() for opener in openers) == 4)
    gate.open()
    failed = [opener for opener in openers if opener.exception() is not None]
    assert failed
    assert all(opener.exception() is error for opener in failed)
    for opener in openers:
        if opener not in failed:
            assert span(opener.result()) == OLD
    assert span(server.open(KEY)) == OLD


@pytest.mark.parametrize("start", [0, FETCH, 4 * FETCH])
@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: b""])
def test_a_reply_of_another_length_is_no_copy(world: World, start: int, change: Callable[[bytes], bytes]) -> None:
    """DL-7: what a faulty back end gives is refused, and never kept; at best it is asked for the right bytes."""
    world.backend.store(KEY, OLD)
    world.backend.altered = lambda asked, data: change(data) if asked.start == start else data
    server = world.server()
    with contextlib.suppress(OSError):
        assert world.begin(lambda: span(server.open(KEY))).result(10) == OLD
    world.let_fills_end()
    assert world.copies() == 0
    world.backend.altered = lambda asked, data: data
    assert span(server.open(KEY)) == OLD


@pytest.mark.parametrize("start", [0, FETCH, 4 * FETCH])
@pytest.mark.parametrize("how", ["short", "cut"])
def test_a_body_that_breaks_off_is_gone_on_with(world: World, start: int, how: str) -> None:
    """DL-7: by one request for what lacks of it; nobody notices."""
    world.backend.store(KEY, OLD)
    at = start + FIRST
    if how == "short":
        world.backend.altered = lambda asked, data: data[:FIRST] if asked.start == start else data
    else:
        world.backend.fail(lambda asked: (asked.what, asked.start) == ("rest", at), TimeoutError("silent"))
    server = world.server()
    assert world.begin(lambda: span(server.open(KEY))).result(10) == OLD
    world.let_fills_end()
    assert cached(server)
    end = min(SIZE, start + FETCH)
    assert spans_read(world.backend) == sorted([*WHOLE, (at, end)])


@given(cuts=st.lists(st.integers(0, 30), max_size=12), size=st.integers(0, 100))
def test_what_breaks_off_is_gone_on_with_as_long_as_something_comes(cuts: list[int], size: int) -> None:
    """Invariant: the bytes are the object's, in order; an error comes after BARREN requests in vain, and not before."""
    data, lengths, asked = some_bytes(size), iter(cuts), list[int]()

    def ask(start: int, stop: int) -> tuple[bytes, fills.Rest]:
        asked.append(start)
        return b"", rest(start, stop, next(lengths, None))

    def rest(start: int, stop: int, length: Optional[int]) -> Generator[bytes, None, None]:
        yield from (data[at : at + 1] for at in range(start, stop if length is None else min(stop, start + length)))
        if length is not None and start + length < stop:
            raise ConnectionError("cut")

    received: list[bytes] = []
    try:
        received.extend(cloud.unbroken(ask, 0, size))
    except ConnectionError:
        assert asked[-cloud.BARREN - 1 :] == [asked[-1]] * (cloud.BARREN + 1)
        assert b"".join(received) == data[: asked[-1]]
    else:
        assert b"".join(received) == data
    assert all(received), "no piece is empty"


def test_an_object_that_is_replaced_elsewhere_during_its_fill(world: World) -> None:
    """DL-6, DL-7: no reader gets bytes of both versions, and neither does the cache."""
    world.backend.store(KEY, OLD)
    server, gate = world.server(), world.backend.gate(asks("read", least=FETCH))
    reader = begun(server.open(KEY))
    gate.await_arrivals()
    world.backend.store(KEY, NEW)
    gate.open()
    with pytest.raises(OSError, match="version") as caught:
        span(reader)
    assert caught.value.errno == errno.ESTALE
    world.let_fills_end()
    assert span(server.open(KEY)) == NEW


def test_no_thread_is_to_be_had(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fill that nobody works at is over, and holds nobody up."""

    def start(thread: threading.Thread) -> None:
        if thread.name != "fill":
            return begin(thread)
        if not others:
            others.append(server.open(KEY))
        raise RuntimeError("can't start new thread")

    begin = threading.Thread.start
    world.backend.store(KEY, OLD)
    server, others = world.server(), list[Found]()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert world.begin(lambda: span(server.open(KEY))).result(10) == OLD
        assert world.begin(lambda: span(others[0])).result(10) == OLD
    assert world.copies() == 0
    assert span(server.open(KEY)) == OLD
    world.let_fills_end()
    assert cached(server)


# ---- Overwrites during a fill (DL-6)


@pytest.mark.parametrize("early", [True, False])
def test_a_commit_waits_for_the_readers_of_the_old_version(world: World, early: bool) -> None:
    """DL-6"""
    world.backend.store(KEY, OLD)
    server, gate = world.server(), world.backend.gate(asks("read", least=FETCH))
    readers = [server.open(KEY) for _ in range(2)]
    commit = world.backend.gate(asks("commit"))
    overwrite = world.begin(lambda: upload(server, NEW, early=early))
    assert not commit.sees_one_within(0.1), "the commit did not wait"
    gate.open()
    commit.await_arrivals()
    commit.open()
    assert overwrite.result() == world.backend.objects[KEY][0].etag
    assert [span(reader) for reader in readers] == [OLD, OLD]
    asked = len(world.backend.asked)
    assert span(server.open(KEY)) == NEW
    assert len(world.backend.of(KEY)) <= asked
    assert cached(server)


def test_a_commit_does_not_wait_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """DL-6: after LET_FILL_SECONDS the old version goes; who still reads it gets an end, not a mixture."""
    monkeypatch.setattr(cloud, "LET_FILL_SECONDS", 0.05)
    world.backend.store(KEY, OLD)
    server, gate = world.server(), world.backend.gate(asks("read", least=FETCH))
    reader = begun(server.open(KEY))
    gate.await_arrivals()
    upload(server, NEW)
    assert span(server.open(KEY)) == NEW
    gate.open()
    with pytest.raises(OSError, match="version"):
        span(reader)
    world.let_fills_end()
    assert span(server.open(KEY)) == NEW
    assert cached(server)


def test_a_reader_of_a_copy_keeps_it(world: World) -> None:
    """DL-6"""
    server = world.server()
    upload(server, OLD)
    reader = server.open(KEY)
    upload(server, NEW)
    assert span(reader) == OLD
    assert span(server.open(KEY)) == NEW


# ---- Revalidation: CH-2


def keep_a_copy(world: World, data: bytes = OLD, name: str = "a") -> Properties:
    """Has the object in the cloud, and a copy of it in the cache of this name; nothing was asked so far."""
    properties = world.backend.store(KEY, data)
    assert span(world.server(name).open(KEY)) == data
    world.let_fills_end()
    world.backend.asked.clear()
    return properties


def kinds_asked(world: World) -> list[str]:
    return [asked.what for asked in world.backend.of(KEY)]


def test_a_fresh_copy_is_not_asked_for(world: World) -> None:
    """CH-2: also after a restart."""
    properties = keep_a_copy(world)
    server = world.server()
    found = server.open(KEY)
    assert found is not None
    assert (head(found), found.state) == (properties, "cached")
    assert span(found) == OLD
    assert kinds_asked(world) == []


def test_an_old_copy_that_is_current_is_asked_for_once(world: World) -> None:
    """CH-2: no bytes are read, and the answer is good for the next ones, also after a restart."""
    keep_a_copy(world)
    server = world.aged_server()
    assert [span(server.open(KEY)) for _ in range(3)] == [OLD] * 3
    assert span(world.server().open(KEY)) == OLD
    assert kinds_asked(world) == ["stat"]


def test_a_copy_from_the_future_is_asked_for(world: World) -> None:
    """CH-2: the clock was set back; it may say anything of how old the copy is."""
    keep_a_copy(world)
    assert span(world.aged_server(age=-ANCIENT).open(KEY)) == OLD
    assert kinds_asked(world) == ["stat"]


def test_a_long_fill_is_asked_for_now_and_then(world: World) -> None:
    """CH-2: as a copy would be; the answer is good for the next ones."""
    world.backend.store(KEY, OLD)
    server, gate = world.server(), world.backend.gate(asks("read", least=FIRST))
    readers = [server.open(KEY)]
    assert isinstance(readers[0], Cold)
    assert readers[0]._fill is not None
    readers[0]._fill.checked -= ANCIENT
    readers += [server.open(KEY) for _ in range(3)]
    gate.open()
    assert [span(reader) for reader in readers] == [OLD] * 4
    assert len(world.backend.of(KEY, "stat")) == 1


def test_many_readers_of_an_old_copy_ask_once(world: World) -> None:
    keep_a_copy(world)
    server, gate = world.aged_server(), world.backend.gate(asks("stat"))
    readers = [world.begin(lambda: span(server.open(KEY))) for _ in range(8)]
    gate.await_arrivals()
    gate.open()
    assert {reader.result() for reader in readers} == {OLD}
    assert kinds_asked(world) == ["stat"]


def test_a_reader_whom_another_one_overtakes_does_not_ask_again(world: World) -> None:
    """It saw an old copy; before it asks, somebody else has."""

    def open_slowly(key: str) -> Optional[Entry]:
        entry = open_it(key)
        if not overtaken:
            overtaken.append(key)
            span(server.open(key))
        return entry

    keep_a_copy(world)
    world.aged_server()
    disk = SickDisk(world.cache(), {})
    server, overtaken, open_it = world.over(disk), list[str](), disk.open
    disk.open = open_slowly
    assert span(server.open(KEY)) == OLD
    assert kinds_asked(world) == ["stat"]


def test_a_reader_of_a_cold_object_whom_another_one_overtakes_does_not_fetch_it_again(world: World) -> None:
    """DL-7: it saw that there is nothing; before it asks, somebody else has fetched all of it."""

    def open_slowly(key: str) -> Optional[Entry]:
        entry = open_it(key)
        if not overtaken:
            overtaken.append(key)
            span(server.open(key))
            world.let_fills_end()
        return entry

    world.backend.store(KEY, OLD)
    disk = SickDisk(world.cache(), {})
    server, overtaken, open_it = world.over(disk), list[str](), disk.open
    disk.open = open_slowly
    assert span(server.open(KEY)) == OLD
    assert spans_read(world.backend) == WHOLE


def test_who_is_alone_looks_at_the_disk_once(world: World) -> None:
    """It is what a cold object waits for before the cloud is asked. After others have asked, it is the same again."""

    def noted_open(key: str) -> Optional[Entry]:
        looks.append(key)
        return open_it(key)

    disk = SickDisk(world.cache(), {})
    server, looks, open_it = world.over(disk), list[str](), disk.open
    disk.open = noted_open
    for key in ("a", "b"):
        world.backend.store(key, OLD[:9])
        assert span(server.open(key)) == OLD[:9]
    assert looks == ["a", "b"]


@pytest.mark.parametrize("size", [0, FIRST, SIZE])
@pytest.mark.parametrize("bodiless", [False, True])
def test_an_old_copy_that_is_outdated_goes(world: World, size: int, bodiless: bool) -> None:
    """CH-2"""
    keep_a_copy(world)
    new = some_bytes(size, 3)
    properties = world.backend.store(KEY, new)
    server = world.aged_server()
    found = server.open(KEY, bodiless)
    assert found is not None
    assert head(found) == properties
    assert span(found) == (b"" if bodiless else new)
    assert kinds_asked(world)[:2] == (["stat"] if bodiless else ["stat", "read"])
    assert span(server.open(KEY)) == new


@pytest.mark.parametrize("bodiless", [False, True])
def test_an_old_copy_of_what_is_gone_goes(world: World, bodiless: bool) -> None:
    """CH-2"""
    keep_a_copy(world)
    world.backend.delete(KEY)
    server = world.aged_server()
    assert server.open(KEY, bodiless) is None
    assert server.open(KEY) is None
    assert world.server().open(KEY) is None


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("bodiless", [False, True])
def test_what_is_known_to_be_outdated_is_not_trusted(world: World, gone: bool, bodiless: bool) -> None:
    """CH-2: however the cloud fails afterwards."""
    keep_a_copy(world)
    if gone:
        world.backend.delete(KEY)
    else:
        world.backend.store(KEY, NEW)
        world.backend.fail(asks("read"), ConnectionError("away"))
    server = world.aged_server()
    with contextlib.suppress(ConnectionError):
        server.open(KEY, bodiless)
    world.backend.fail(lambda asked: True, ConnectionError("away"))
    with pytest.raises(ConnectionError):
        server.open(KEY)


def test_zero_seconds_ask_every_time(world: World) -> None:
    """CH-2"""
    keep_a_copy(world)
    server = world.server("a", revalidate_seconds=0)
    assert [span(server.open(KEY)) for _ in range(3)] == [OLD] * 3
    assert kinds_asked(world) == ["stat"] * 3
    world.backend.store(KEY, NEW)
    assert span(server.open(KEY)) == NEW


def test_zero_seconds_ask_for_what_is_being_filled(world: World) -> None:
    """CH-2, DL-7: the bytes are fetched once all the same."""
    world.backend.store(KEY, OLD)
    server, gate = world.server("a", revalidate_seconds=0), world.backend.gate(asks("read", least=FIRST))
    readers = [server.open(KEY) for _ in range(3)]
    gate.open()
    assert [span(reader) for reader in readers] == [OLD] * 3
    assert [asked.what for asked in world.backend.of(KEY, "stat")] == ["stat"] * 2
    assert spans_read(world.backend) == WHOLE


def test_what_is_being_filled_and_was_replaced_is_begun_anew(world: World) -> None:
    """CH-2"""
    world.backend.store(KEY, OLD)
    server, gate = world.server("a", revalidate_seconds=0), world.backend.gate(asks("read", least=FIRST))
    old = server.open(KEY)
    world.backend.store(KEY, NEW)
    new = server.open(KEY)
    gate.open()
    assert span(new) == NEW
    with pytest.raises(OSError, match="version"):
        span(old)
    world.let_fills_end()
    assert span(server.open(KEY)) == NEW


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_copies_are_trusted_while_the_cloud_is_away(world: World, error: OSError) -> None:
    """CH-2, RFC 9111 4.2.4: one reader pays for asking, and the operator hears of it."""
    keep_a_copy(world)
    world.backend.store("other", b"")
    world.backend.fail(lambda asked: True, error)
    server = world.aged_server()
    assert [span(server.open(KEY)) for _ in range(3)] == [OLD] * 3
    assert kinds_asked(world) == ["stat"]
    assert [event for event, _ in world.warned] == ["backend-failed"]
    with pytest.raises(type(error)):
        server.open("other")


def test_copies_are_trusted_for_a_while_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """CH-2"""
    monkeypatch.setattr(cloud, "TRUST_SECONDS", 0.0)
    keep_a_copy(world)
    world.backend.fail(asks("stat"), ConnectionError("away"), times=2)
    server = world.aged_server()
    assert [span(server.open(KEY)) for _ in range(2)] == [OLD] * 2
    world.backend.store(KEY, NEW)
    assert span(server.open(KEY)) == NEW
    assert [event for event, _ in world.warned] == ["backend-failed"]


@pytest.mark.parametrize("error", [*PASSING, PermissionError(errno.EACCES, "403")], ids=repr)
def test_copies_are_never_trusted_where_each_is_to_be_asked_for(world: World, error: OSError) -> None:
    """CH-2: nor when we are not let in any more."""
    keep_a_copy(world)
    world.backend.fail(asks("stat"), error)
    seconds = 60.0 if error.errno == errno.EACCES else 0.0
    server = world.aged_server("a", seconds)
    for _ in range(2):
        with pytest.raises(type(error)):
            server.open(KEY)
    assert kinds_asked(world) == ["stat"] * 2
    world.backend.recover()
    assert span(server.open(KEY)) == OLD
    assert kinds_asked(world) == ["stat"] * 3


# ---- Uploads: UP-8

BOUNDS = (0, 1, FIRST, FIRST + 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, FETCH + 1, SIZE)


@given(size=st.sampled_from(BOUNDS) | st.integers(0, 400), piece=st.integers(1, 150), early=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_upload_is_written_through(size: int, piece: int, early: bool) -> None:
    """Invariant: here a hit, elsewhere cold, everywhere the same bytes and head (UP-8, CH-2)."""
    data = some_bytes(size)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(World(Path(folder))) as world:
        here, elsewhere = world.server("a"), world.server("b")
        etag = upload(here, data, early=early, piece=piece)
        stored = world.backend.objects[KEY][0]
        assert (stored.size, stored.etag, stored.content_type) == (size, etag, TYPE)
        kinds = ["put"] if size <= BLOCK else ["write"] * -(-size // BLOCK) + ["commit"]
        assert kinds_asked(world) == kinds
        found = here.open(KEY)
        assert found is not None
        assert (head(found), found.state) == (stored, "cached")
        assert span(found) == data
        assert kinds_asked(world) == kinds
        cold = elsewhere.open(KEY)
        assert cold is not None
        assert head(cold) == stored
        assert span(cold) == data


@pytest.mark.parametrize("early", [True, False])
def test_blocks_go_out_while_the_upload_arrives(world: World, early: bool) -> None:
    """UP-8: nothing of it is visible; an upload that is left leaves no trace, and the copy is still good."""
    server = world.server()
    upload(server, OLD)
    world.backend.asked.clear()
    with contextlib.suppress(EOFError), server.create(KEY if early else None, TYPE, TAGS) as incoming:
        incoming.write(NEW)
        assert kinds_asked(world) == (["write"] * 9 if early else [])
        assert world.backend.objects[KEY][1] == OLD
        raise EOFError
    assert world.backend.objects[KEY][1] == OLD
    assert world.backend.open_uploads == 0
    assert span(server.open(KEY)) == OLD
    assert kinds_asked(world) == (["write"] * 9 if early else [])


FAILURES = [ConnectionError("reset"), TimeoutError("silent"), OSError(errno.EIO, "400")]


@pytest.mark.parametrize("error", FAILURES, ids=repr)
@pytest.mark.parametrize("data", [b"new", NEW], ids=["small", "large"])
@pytest.mark.parametrize("late", [False, True])
def test_a_commit_that_failed_leaves_no_copy(world: World, error: OSError, data: bytes, late: bool) -> None:
    """UP-8, CH-2: nobody knows which version is there now, so the cloud is asked; the old copy is not trusted."""
    server = world.server()
    upload(server, OLD)
    world.backend.fail(lambda asked: asked.key == KEY and asked.what in ("put", "commit"), error, late=late)
    with pytest.raises(type(error)):
        upload(server, data)
    world.backend.asked.clear()
    assert span(server.open(KEY)) == (data if late else OLD)
    assert kinds_asked(world)[0] == "read"
    world.let_fills_end()
    assert span(server.open(KEY)) == (data if late else OLD)


def test_a_commit_that_failed_for_good(world: World) -> None:
    """UP-8, CH-2: with the cloud away, there is nothing that could be trusted."""
    server = world.server()
    upload(server, OLD)
    world.backend.fail(lambda asked: asked.key == KEY and asked.what != "list", ConnectionError("away"))
    with pytest.raises(ConnectionError):
        upload(server, b"new")
    with pytest.raises(ConnectionError):
        server.open(KEY)


def test_a_block_that_cannot_be_sent_ends_the_upload(world: World) -> None:
    """UP-8"""
    server = world.server()
    upload(server, OLD)
    world.backend.fail(asks("write"), OSError(errno.EBUSY, "503"))
    with pytest.raises(OSError, match="503"):
        upload(server, NEW)
    assert world.backend.objects[KEY][1] == OLD
    assert span(server.open(KEY)) == OLD


# ---- Disks that take no copies (UP-10)

NO_SPACE, READ_ONLY = errno.ENOSPC, errno.EROFS
DISKS: list[dict[str, int]] = [
    {"create": NO_SPACE},
    {"create": READ_ONLY, "drop": READ_ONLY},
    {"write": NO_SPACE},
    {"publish": NO_SPACE},
    {"publish": READ_ONLY, "drop": READ_ONLY},
]


@pytest.mark.parametrize("sick", [*DISKS, {"pwrite": NO_SPACE}, None], ids=str)
@pytest.mark.parametrize("start", range(238, 270, 4))
def test_what_was_begun_in_the_middle_passes_a_sick_cache_by(
    world: World, sick: Optional[dict[str, int]], start: int
) -> None:
    """CH-2, DL-7: nobody reads from the copy what it did not take."""
    world.backend.store(KEY, OLD)
    server = world.over(None if sick is None else SickDisk(world.cache(), sick))
    beginner, other = server.open(KEY, start=250), server.open(KEY)
    assert span(other, start, SIZE) == OLD[start:]
    assert span(beginner) == OLD


@pytest.mark.parametrize("sick", [*DISKS, {"pwrite": NO_SPACE}, None], ids=str)
@pytest.mark.parametrize("size", [0, FIRST, SIZE])
def test_downloads_pass_a_sick_cache_by(world: World, sick: Optional[dict[str, int]], size: int) -> None:
    """CH-2, UP-10: with one warning a minute; `None`: there is no cache at all."""
    data = some_bytes(size)
    world.backend.store(KEY, data)
    server = world.over(None if sick is None else SickDisk(world.cache(), sick))
    for _ in range(3):
        assert span(server.open(KEY)) == data
        world.let_fills_end()
    well = sick is None or "write" in sick or ("pwrite" in sick and size == 0)  # write() is for uploads
    assert [event for event, _ in world.warned] == ([] if well else ["cache-failed"])
    if not well and sick:
        assert os.strerror(next(iter(sick.values()))) in world.warned[0][1]


@pytest.mark.parametrize("sick", [*DISKS, None], ids=str)
@pytest.mark.parametrize("data", [b"", b"new", NEW], ids=["empty", "small", "large"])
def test_uploads_pass_a_sick_cache_by(world: World, sick: Optional[dict[str, int]], data: bytes) -> None:
    """UP-10: the outdated copy is never seen again, even where it cannot be deleted."""
    disk = SickDisk(world.cache(), {})
    server = world.over(None if sick is None else disk)
    upload(server, OLD)
    disk.sick = sick or {}
    etag = upload(server, data)
    for _ in range(2):
        found = server.open(KEY)
        assert found is not None
        assert found.etag == etag
        assert span(found) == data
        world.let_fills_end()
    well = sick is None or (not data and "write" in sick)
    assert [event for event, _ in world.warned] == ([] if well else ["cache-failed"])


def test_a_cache_that_is_well_again_is_used_again(world: World) -> None:
    """An outdated copy that could not be deleted is replaced, and then trusted."""
    disk = SickDisk(world.cache(), {})
    server = world.over(disk)
    upload(server, OLD)
    disk.sick = {"create": READ_ONLY, "drop": READ_ONLY}
    upload(server, NEW)
    assert world.copies() == 1, "the outdated one"
    disk.sick = {}
    assert span(server.open(KEY)) == NEW
    world.let_fills_end()
    assert cached(server)
    assert span(server.open(KEY)) == NEW


def test_the_operator_is_told_once_a_minute(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.backend.store(KEY, OLD)
    server = world.over(SickDisk(world.cache(), {"create": NO_SPACE}))
    for _ in range(3):
        span(server.open(KEY))
    assert len(world.warned) == 1
    monkeypatch.setattr(cloud, "QUIET_SECONDS", 0.0)
    span(server.open(KEY))
    assert len(world.warned) == 2


def test_the_disk_is_given_back_when_it_is_full(world: World) -> None:
    """A copy that the disk has no room for goes at once, and not when the upload ends."""
    disk = SickDisk(world.cache(), {})
    server = world.over(disk)
    with server.create(KEY, TYPE, TAGS) as incoming:
        incoming.write(OLD)
        assert len(list(world.folder.glob("a/uploads/*"))) == 1
        disk.sick = {"write": NO_SPACE}
        incoming.write(OLD)
        assert list(world.folder.glob("a/uploads/*")) == []
        incoming.commit(KEY, TYPE, TAGS)
    assert span(server.open(KEY)) == OLD + OLD


@pytest.mark.parametrize("sick", [{"create": NO_SPACE}, {"write": NO_SPACE}, None], ids=str)
def test_an_upload_whose_key_comes_late_needs_room(world: World, sick: Optional[dict[str, int]]) -> None:
    """UP-10: it has nowhere to wait."""
    server = world.over(None if sick is None else SickDisk(world.cache(), sick))
    with pytest.raises(OSError, match=r"room|space") as caught:
        upload(server, OLD, early=False)
    assert caught.value.errno == errno.ENOSPC
    assert world.backend.of(KEY) == []


# ---- The lock between servers (UP-9)

PROBE = leases.LOCKS + "probe-"


def is_lock(key: str) -> bool:
    return key.startswith(leases.LOCKS) and not key.startswith(PROBE)


def locks(backend: Memory) -> list[str]:
    return list(filter(is_lock, backend.objects))


def is_claim(asked: Asked) -> bool:
    return asked.what == "claim" and is_lock(asked.key)


def is_release(asked: Asked) -> bool:
    return asked.what == "delete" and is_lock(asked.key)


def is_probe(asked: Asked) -> bool:
    return asked.key.startswith(PROBE)


def is_renewal(asked: Asked) -> bool:
    return is_claim(asked) and asked.etag != ""


def test_two_servers_exclude_each_other(world: World) -> None:
    """UP-9: of one key only."""
    one, other = world.server("a"), world.server("b")
    with one.lease(KEY, 1) as ours:
        assert ours
        assert len(locks(world.backend)) == 1
        with other.lease(KEY, 0.1) as theirs:
            assert not theirs
        with other.lease("another", 0.1) as theirs:
            assert theirs
    with other.lease(KEY, 5) as theirs:
        assert theirs


def test_the_next_one_has_the_key_as_soon_as_it_is_free(world: World) -> None:
    """UP-9"""
    one, other = world.server("a"), world.server("b")

    def wait_and_upload() -> str:
        with other.lease(KEY, 10) as theirs:
            assert theirs
            assert free.is_set()
            with other.create(KEY, TYPE, TAGS) as incoming:
                incoming.write(NEW)
                return incoming.commit(KEY, TYPE, TAGS)

    free = threading.Event()
    with one.lease(KEY, 1):
        claims = len([asked for asked in world.backend.asked if is_claim(asked)])
        waiting = world.begin(wait_and_upload)
        until(lambda: len([asked for asked in world.backend.asked if is_claim(asked) and not asked.etag]) > claims)
        with one.create(KEY, TYPE, TAGS) as incoming:
            incoming.write(OLD)
            incoming.commit(KEY, TYPE, TAGS)
        free.set()
    assert waiting.result(10) == world.backend.objects[KEY][0].etag
    assert world.backend.objects[KEY][1] == NEW
    assert span(world.server("a", 0).open(KEY)) == NEW


def test_a_dead_holder_loses_the_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-9: after EXPIRY_SECONDS in which its lock did not change; a living one that watches gets it then."""
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.3)
    server = world.server()
    with server.lease(KEY, 1):
        (name,) = locks(world.backend)
    until(lambda: locks(world.backend) == [])
    world.backend.store(name, b"the claim of a server that is dead")
    began = time.monotonic()
    with server.lease(KEY, 0.1) as ours:
        assert not ours
    with server.lease(KEY, 10) as ours:
        assert ours
        assert time.monotonic() - began >= 0.3


def test_those_who_wait_too_briefly_free_it_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-9: with `lock_seconds` below EXPIRY_SECONDS a dead server would otherwise keep the key for ever."""
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.3)
    server = world.server()
    with server.lease(KEY, 1):
        (name,) = locks(world.backend)
    until(lambda: locks(world.backend) == [])
    world.backend.store(name, b"the claim of a server that is dead")
    deadline = time.monotonic() + 5
    while True:
        with server.lease(KEY, 0.05) as ours:
            if ours:
                break
        assert time.monotonic() < deadline, "a dead server keeps the key for ever"


def test_a_lock_that_was_seen_long_ago_and_is_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-9: what was seen of it is of no use any more."""
    one, other = world.server("a"), world.server("b")
    with one.lease(KEY, 1), other.lease(KEY, 0.01) as theirs:
        assert not theirs
    until(lambda: locks(world.backend) == [])
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.0)
    with other.lease(KEY, 1) as theirs:
        assert theirs


def test_a_living_holder_keeps_the_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-9: however long it takes."""
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 1.2)
    one, other = world.server("a"), world.server("b")
    with one.lease(KEY, 1), one.create(KEY, TYPE, TAGS) as incoming:
        incoming.write(NEW)
        with other.lease(KEY, 1.5) as theirs:
            assert not theirs
        incoming.commit(KEY, TYPE, TAGS)
    assert len([asked for asked in world.backend.asked if is_renewal(asked)]) > 3
    assert world.backend.objects[KEY][1] == NEW


@pytest.mark.parametrize("data", [b"new", NEW], ids=["small", "large"])
def test_a_lock_that_somebody_else_took_ends_the_upload(world: World, data: bytes) -> None:
    """UP-9: nothing of it is visible, and the other's lock stays."""
    server = world.server()
    upload(server, OLD)
    until(lambda: locks(world.backend) == [])
    with server.lease(KEY, 1), server.create(KEY, TYPE, TAGS) as incoming:
        incoming.write(data)
        (name,) = locks(world.backend)
        world.backend.store(name, b"the claim of another server")
        seen = len(world.backend.asked)
        until(lambda: any(is_renewal(asked) for asked in world.backend.asked[seen:]))
        with pytest.raises(OSError, match="lock") as caught:
            until(lambda: incoming.commit(KEY, TYPE, TAGS) == "")
    assert caught.value.errno == errno.ENOLCK
    assert world.backend.objects[KEY][1] == OLD
    assert span(server.open(KEY)) == OLD
    world.private_left = 1


def test_a_lock_that_cannot_be_renewed_ends_the_upload(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-9: before anybody else may have the key; the operator is told."""
    server = world.server()
    upload(server, OLD)
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.2)
    with server.lease(KEY, 1), server.create(KEY, TYPE, TAGS) as incoming:
        incoming.write(NEW)
        world.backend.fail(is_claim, ConnectionError("away"))
        threading.Event().wait(0.2)  # the time that a lock lives
        with pytest.raises(OSError, match="lock") as caught:
            incoming.commit(KEY, TYPE, TAGS)
    assert caught.value.errno == errno.ENOLCK
    assert world.backend.objects[KEY][1] == OLD
    assert [event for event, _ in world.warned] == ["lease-not-renewed"]


def test_a_passing_failure_does_not_cost_the_lock(world: World) -> None:
    """UP-9"""
    server = world.server()
    with server.lease(KEY, 1), server.create(KEY, TYPE, TAGS) as incoming:
        incoming.write(NEW)
        world.backend.fail(is_claim, ConnectionError("away"), times=2)
        until(lambda: len([asked for asked in world.backend.asked if is_renewal(asked)]) >= 3)
        incoming.commit(KEY, TYPE, TAGS)
    assert world.backend.objects[KEY][1] == NEW


def test_a_lock_that_somebody_else_took_is_not_released(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-9: by a server that was asleep, and did not notice."""
    monkeypatch.setattr(leases, "RENEW_SECONDS", 10.0)
    server = world.server()
    with server.lease(KEY, 1):
        (name,) = locks(world.backend)
        world.backend.store(name, b"the claim of another server")
    until(lambda: any(map(is_release, world.backend.asked)))
    world.private_left = 1
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)


def test_a_renewal_that_hangs_costs_no_other_lock(world: World) -> None:
    """UP-9"""
    server = world.server()
    with server.lease("one", 1):
        (name,) = locks(world.backend)
        gate = world.backend.gate(lambda asked: is_renewal(asked) and asked.key == name)
        gate.await_arrivals()
        with server.lease("two", 1):
            until(lambda: len([asked for asked in world.backend.asked if is_renewal(asked) and asked.key != name]) > 2)
        names = [thread.name for thread in own_threads()]
        assert names.count("leases") == 1
        assert names.count("lease") <= 2, "one is enough to hang"
        gate.open()


def test_a_lock_that_cannot_be_released_expires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-9: the upload is none the worse, and the operator is told."""
    server = world.server()
    world.backend.fail(is_release, ConnectionError("away"), times=1)
    upload(server, OLD)
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.2)
    with world.server("b").lease(KEY, 10) as theirs:
        assert theirs
    assert [event for event, _ in world.warned] == ["lease-not-released"]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_lock_that_cannot_be_had_is_an_error(world: World, error: OSError) -> None:
    """UP-10"""
    server = world.server()
    upload(server, OLD)
    world.backend.fail(is_claim, error, times=1)
    with pytest.raises(type(error)), server.lease(KEY, 1):
        pytest.fail("the key is not ours")
    with server.lease(KEY, 5) as ours:
        assert ours


def test_the_housekeeping_leaves_the_living_alone(world: World) -> None:
    """UP-9: however often it comes round."""
    one, other = world.server("a"), world.server("b")
    with one.lease("mine", 1), other.lease("theirs", 1):
        for _ in range(5):
            one.remove_dead_locks()
        assert len(locks(world.backend)) == 2


def test_the_housekeeping_removes_what_the_dead_have_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-9: also what is left of finding out whether there can be locks."""
    server = world.server()
    upload(server, OLD)
    until(lambda: locks(world.backend) == [])
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.3)
    for name in (leases.LOCKS + "0" * 128, PROBE + "0"):
        world.backend.store(name, b"the claim of a server that is dead")
    server.remove_dead_locks()
    server.remove_dead_locks()
    assert len(world.backend.objects) == 3
    threading.Event().wait(0.3)  # the time that a lock lives
    server.remove_dead_locks()
    assert list(world.backend.objects) == [KEY]


def test_a_lock_that_turns_out_to_live_is_not_removed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-9: its server comes back in the moment between the look and the deletion."""
    server = world.server()
    upload(server, OLD)
    until(lambda: locks(world.backend) == [])
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.0)
    name = leases.LOCKS + "0" * 128
    world.backend.store(name, b"the claim of a server that seems to be dead")
    gate = world.backend.gate(lambda asked: (asked.what, asked.key) == ("delete", name))
    removal = world.begin(server.remove_dead_locks)
    gate.await_arrivals()
    world.backend.store(name, b"a new claim of this server")
    gate.open()
    removal.result(10)
    assert locks(world.backend) == [name]
    world.private_left = 1


# ---- Whether there can be such a lock


def test_the_first_upload_finds_out_whether_there_are_locks(world: World) -> None:
    server = world.server()
    assert world.backend.asked == [], "a start asks for nothing"
    upload(server, OLD)
    probed = [asked for asked in world.backend.asked if is_probe(asked)]
    assert probed
    upload(server, NEW)
    assert [asked for asked in world.backend.asked if is_probe(asked)] == probed
    assert world.warned == []


@pytest.mark.parametrize("ignored", [["If-Match"], ["If-None-Match"], ["If-Match", "If-None-Match"]], ids=str)
def test_a_cloud_that_cannot_lock(tmp_path: Path, ignored: list[str]) -> None:
    """UP-9: the operator is told, once; nothing is left of finding it out."""
    with contextlib.closing(World(tmp_path, Memory(*ignored))) as world:
        one, other = world.server("a"), world.server("b")
        with one.lease(KEY, 1) as ours, other.lease(KEY, 1) as theirs:
            assert ours
            assert theirs
        assert upload(one, OLD) == world.backend.objects[KEY][0].etag
        assert [event for event, _ in world.warned] == ["lock-scope"] * 2
        assert list(world.backend.objects) == [KEY]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_cloud_that_refuses_to_lock(tmp_path: Path, number: int, code: int) -> None:
    """UP-9: at whichever request; nothing is left of finding it out."""
    requests = itertools.count(1)
    with contextlib.closing(World(tmp_path)) as world:
        world.backend.fail(lambda asked: is_probe(asked) and next(requests) == number, OSError(code, "not for you"))
        server = world.server()
        with server.lease(KEY, 1) as ours:
            assert ours
        assert [event for event, _ in world.warned] == ["lock-scope"]
        upload(server, OLD)
        assert list(world.backend.objects) == [KEY]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_cloud_that_is_away_is_asked_again_later(world: World, error: OSError) -> None:
    server = world.server()
    world.backend.fail(is_probe, error, times=1)
    with pytest.raises(type(error)):
        upload(server, OLD)
    upload(server, OLD)
    assert world.warned == []
    with world.server("b").lease(KEY, 5) as theirs, server.lease(KEY, 0.05) as ours:
        assert theirs
        assert not ours


def test_uploads_do_not_wait_for_each_other_to_find_out(world: World) -> None:
    """UP-9, UP-10: with a silent cloud the second one would wait twice as long, the tenth ten times."""
    server, gate = world.server(), world.backend.gate(is_probe)
    uploads = [world.begin(lambda number=number: upload(server, OLD, f"job/{number}")) for number in range(3)]  # type: ignore[misc]
    gate.await_arrivals(3)
    gate.open()
    for one in uploads:
        one.result(10)


def test_scope_server_asks_for_no_lock(world: World) -> None:
    server = world.over(world.cache(), cluster=False)
    upload(server, OLD)
    server.remove_dead_locks()
    assert not any(asked.key.startswith(leases.LOCKS) for asked in world.backend.asked)


# ---- Lists, figures, the end


def test_a_list_holds_nothing_of_ours(world: World) -> None:
    """LS-1: sorted, narrowed by a prefix; while there are locks."""
    for key in ("b/2", "a", "b/1", ".metadata/x", ".metadata.txt"):
        world.backend.store(key, b"")
    server = world.server()
    with server.lease(KEY, 1):
        assert list(server.keys("")) == [".metadata.txt", "a", "b/1", "b/2"]
        assert list(server.keys("b/")) == ["b/1", "b/2"]
        assert list(server.keys(".metadata/")) == []
    world.private_left = 1


def test_a_list_that_breaks_is_an_error(world: World) -> None:
    """LS-1"""
    for key in ("a", "b", "c"):
        world.backend.store(key, b"")
    world.backend.fail(asks("list", "c"), ConnectionError("cut"))
    keys = world.server().keys("")
    assert [next(keys), next(keys)] == ["a", "b"]
    with pytest.raises(ConnectionError):
        next(keys)


def test_the_time_of_the_cloud_is_measured(world: World) -> None:
    """MT-1"""
    took: list[tuple[str, float]] = []
    server = world.over(world.cache(), 0, took=lambda *figure: took.append(figure))
    upload(server, OLD)
    span(server.open(KEY))
    world.cache().drop(KEY)
    span(server.open(KEY))
    assert {operation for operation, _ in took} == {"folders", "lease", "write", "commit", "stat", "read"}
    assert all(seconds >= 0 for _, seconds in took)


# ---- Many uploads at once: the files of an archive (AR-3)

MANY = {f"job/dtbs/{number}/a.dtb": 20 for number in range(9)}


def writes(backend: Memory) -> list[str]:
    """The requests that change something, but for those that renew locks or find out whether the account has them."""
    about = [asked for asked in backend.asked if asked.what in ("claim", "put", "delete", "commit")]
    return [asked.what for asked in about if "probe" not in asked.key and not is_renewal(asked)]


def test_small_uploads_of_an_archive_take_a_request_each(world: World) -> None:
    server = world.server()
    with server.together(MANY):
        for key in MANY:
            upload(server, b"x" * 20, key)
    assert writes(world.backend) == ["put"] * len(MANY)
    assert sorted(key for key in world.backend.objects if not key.startswith(cloud.PRIVATE)) == sorted(MANY)
    upload(server, b"y", "job/dtbs/0/a.dtb")
    assert "claim" in writes(world.backend), "the next upload has its lock"


def test_large_uploads_of_an_archive_have_their_locks(world: World) -> None:
    server = world.server()
    with server.together({**MANY, KEY: BLOCK + 1}):
        upload(server, b"x" * (BLOCK + 1), KEY)
        assert [asked.what for asked in world.backend.asked if asked.what == "claim"]
        assert writes(world.backend)[0] == "claim"


def test_an_upload_of_an_archive_waits_for_another_server(world: World) -> None:
    """UP-9"""
    other, server = world.server("b"), world.server("a")
    taken, *_ = MANY
    with other.lease(taken, 5), server.together(MANY):
        with server.lease(taken, 0.05) as ours:
            assert not ours
        upload(server, b"x", "job/dtbs/1/a.dtb")


@pytest.mark.parametrize(
    ("there", "error"),
    [("job/dtbs/3", NotADirectoryError), ("job/dtbs/3/a.dtb/b", IsADirectoryError)],
)
def test_an_upload_of_an_archive_against_the_rule(world: World, there: str, error: type[OSError]) -> None:
    """UP-4: it is refused, and no other."""
    world.backend.store(there, b"")
    server = world.server()
    with server.together(MANY):
        with pytest.raises(error):
            upload(server, b"x", "job/dtbs/3/a.dtb")
        upload(server, b"x", "job/dtbs/4/a.dtb")
    assert writes(world.backend).count("put") == 1


@pytest.mark.parametrize("there", ["job", "job/dtbs"])
def test_an_archive_below_an_object(world: World, there: str) -> None:
    """UP-4"""
    world.backend.store(there, b"")
    with pytest.raises(NotADirectoryError), world.server().together(MANY):
        pass


def test_an_archive_among_more_objects_than_one_listing_has(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key is looked at by itself then."""
    monkeypatch.setattr(folders, "MOST_SURVEYED", 5)
    for number in range(6):
        world.backend.store(f"job/dtbs/0/{number}", b"")
    server = world.server()
    with server.together(MANY):
        upload(server, b"x", "job/dtbs/4/a.dtb")
    assert writes(world.backend)[:2] == ["claim", "put"]


def test_the_end_waits_for_locks_to_be_free(world: World) -> None:
    server, gate = world.server(), world.backend.gate(is_release)
    with server.lease(KEY, 1):
        assert len(locks(world.backend)) == 1
    gate.await_arrivals()
    end = world.begin(server.close)
    with pytest.raises(NotYet):
        end.result(0.1)
    gate.open()
    end.result(10)
    world.servers.remove(server)
    assert world.backend.objects == {}
    assert world.backend.users == 0


def test_the_end_does_not_wait_for_a_cloud_that_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """CF-3: what cannot be released expires."""
    monkeypatch.setattr(leases, "CLOSE_SECONDS", 0.05)
    server, gate = world.server(), world.backend.gate(is_release)
    with server.lease(KEY, 1):
        assert len(locks(world.backend)) == 1
    gate.await_arrivals()
    world.begin(server.close).result(10)
    world.servers.remove(server)
    world.backend.users += 1  # the release is still at the gate
    gate.open()
    until(lambda: world.backend.objects == {})


def test_the_end_is_one_for_fills_too(world: World) -> None:
    """They fetch no more than what they have asked for; what is not whole is no copy."""
    world.backend.store(KEY, some_bytes(20 * FETCH))
    server, gate = world.server(), world.backend.gate(asks("read", least=FIRST))
    span(server.open(KEY), 0, 1)
    gate.await_arrivals(4)
    server.close()
    world.servers.remove(server)
    world.backend.users += 1  # what they ask for now is noted
    gate.open()
    world.let_fills_end()
    assert len(spans_read(world.backend)) == 1 + 3
    assert world.copies() == 0


# ---- Anything in any order


class Reader(NamedTuple):
    """Who has opened an object, and not read it yet."""

    found: Union[Hit, Cold]
    name: str  # of the server
    key: str
    data: bytes


NAMES, KEYS = st.sampled_from(["a", "b"]), st.sampled_from(["x", "y/ü"])
SIZES = st.sampled_from(BOUNDS) | st.integers(0, 200)


class Servers(RuleBasedStateMachine):
    """Two servers on one container, each asking every time, are like one dictionary (UP-8, DL-6, CH-2)."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self._folder.name))
        self.servers = {name: self.world.server(name, revalidate_seconds=0) for name in ("a", "b")}
        self.model: dict[str, bytes] = {}
        self.seeds = itertools.count(1)
        self.readers: list[Reader] = []
        self.overtaken: list[Reader] = []  # whose version was replaced behind the back of their server

    def change(self, key: str, data: Optional[bytes], name: str = "") -> None:
        self.model.pop(key, None)
        if data is not None:
            self.model[key] = data
        self.overtaken += [reader for reader in self.readers if reader.key == key and reader.name != name]

    @rule(name=NAMES, key=KEYS, size=SIZES, early=st.booleans())
    def put(self, name: str, key: str, size: int, early: bool) -> None:
        data = some_bytes(size, next(self.seeds))
        upload(self.servers[name], data, key, early, piece=50)
        self.change(key, data, name)

    @rule(name=NAMES, key=KEYS, size=SIZES)
    def leave(self, name: str, key: str, size: int) -> None:
        server = self.servers[name]
        with server.lease(key, 5) as ours, server.create(key, TYPE, TAGS) as incoming:
            assert ours
            incoming.write(some_bytes(size, next(self.seeds)))

    @rule(name=NAMES, key=KEYS, size=SIZES, late=st.booleans())
    def lose(self, name: str, key: str, size: int, late: bool) -> None:
        """The commit fails: before it was carried out, or after."""
        data = some_bytes(size, next(self.seeds))
        hits: Hits = lambda asked: asked.what in ("put", "commit")  # noqa: E731
        self.world.backend.fail(hits, ConnectionError("lost"), 1, late)
        with pytest.raises(ConnectionError):
            upload(self.servers[name], data, key)
        self.world.backend.recover()
        if late:
            self.change(key, data, name)

    @rule(key=KEYS, size=st.none() | SIZES)
    def meddle(self, key: str, size: Optional[int]) -> None:
        """Another program deletes or replaces the object."""
        data = None if size is None else some_bytes(size, next(self.seeds))
        if data is None:
            self.world.backend.objects.pop(key, None)
        else:
            self.world.backend.store(key, data)
        self.change(key, data)

    @rule(name=NAMES, key=KEYS)
    def evict(self, name: str, key: str) -> None:
        self.world.cache(name).drop(key)

    @rule(name=NAMES, key=KEYS, bodiless=st.booleans(), start=st.integers(0, 200), length=st.integers(0, 200))
    def get(self, name: str, key: str, bodiless: bool, start: int, length: int) -> None:
        found = self.servers[name].open(key, bodiless)
        assert (found is None) == (key not in self.model)
        if found is not None:
            assert head(found) == self.world.backend.objects[key][0]
            stop = min(start + length, found.size)
            if bodiless:
                found.close()
            else:
                assert span(found, start, stop) == self.model[key][start:stop]

    @rule(name=NAMES, key=KEYS)
    def fail_to_get(self, name: str, key: str) -> None:
        """The next read breaks: in `open`, in a fill, or nobody reads."""
        self.world.let_fills_end()  # or it might break one that has to spare a reader
        self.world.backend.fail(lambda asked: asked.what == "read", ConnectionError("cut"), 1)
        with contextlib.suppress(ConnectionError):
            found = self.servers[name].open(key)
            if found is not None:
                assert span(found) == self.model[key]
        self.world.let_fills_end()
        self.world.backend.recover()

    @precondition(lambda self: len(self.readers) < 3)
    @rule(name=NAMES, key=KEYS)
    def begin(self, name: str, key: str) -> None:
        found = self.servers[name].open(key)
        if found is not None:
            self.readers.append(Reader(found, name, key, self.model[key]))

    @precondition(lambda self: self.readers)
    @rule(number=st.integers(0, 2))
    def end(self, number: int) -> None:
        """DL-6: the bytes that it began with, unless another server replaced what this one does not have yet."""
        reader = self.readers.pop(number % len(self.readers))
        stale: list[OSError] = []
        try:
            assert span(reader.found) == reader.data
        except OSError as error:
            stale.append(error)
        if stale:
            assert stale[0].errno == errno.ESTALE
            assert isinstance(reader.found, Cold)
            assert any(reader is overtaken for overtaken in self.overtaken)

    def teardown(self) -> None:
        for reader in self.readers:
            reader.found.close()
        self.world.close()
        self._folder.cleanup()


TestServers = Servers.TestCase
TestServers.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
