"""One suite for every driver: what `kcistorage.Driver` promises, asked for through nothing but that protocol.

A new driver joins by a line in DRIVERS.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import itertools
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from kcistorage import Driver, Found, Incoming
from kcistorage_parts import cloud, local, names
from kcistorage_parts.cache import Cache
from kcistorage_test import azurite, seaweed
from kcistorage_test.parts_at_hand import needs_library

Open = Callable[[], Driver]


OPENED: list[Driver] = []  # until the end of the test


def over_cloud(backend: cloud.Backend, folder: Path) -> Driver:
    """A server of its own, with its own cache, that asks the cloud each time whether a copy is current."""
    driver = cloud.CloudDriver(backend, Cache(tempfile.mkdtemp(dir=folder)), revalidate_seconds=0)
    OPENED.append(driver)
    return driver


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No test leaves a thread or a connection behind."""
    yield
    while OPENED:
        OPENED.pop().close()


@cache
def container(folder: Path) -> str:
    """One that is new for each folder."""
    return azurite.new_container(azurite.running())


def over_azure(folder: Path) -> Driver:
    needs_library("azure.storage.blob")
    from kcistorage_parts.azure import AzureBackend

    name, url = container(folder), azurite.running()
    return over_cloud(AzureBackend(account=azurite.ACCOUNT, key=azurite.KEY, container=name, endpoint=url), folder)


SEAWEED = contextlib.ExitStack()  # the S3 server of this process, from its first use on
SEAWEED_OF: list[Path] = []  # the folder of those who have its bucket


@cache
def s3_server() -> seaweed.Seaweed:
    atexit.register(SEAWEED.close)
    return SEAWEED.enter_context(seaweed.running())


def over_s3(folder: Path) -> Driver:
    needs_library("obstore")
    from kcistorage_parts.s3 import S3Backend

    backend = S3Backend(
        endpoint=s3_server().endpoint,
        bucket=seaweed.BUCKET,
        access_key=seaweed.ACCESS_KEY,
        secret_key=seaweed.SECRET_KEY,
        secure=False,
    )
    if [folder] != SEAWEED_OF:
        SEAWEED_OF[:] = [folder]
        for key in list(backend.keys("")):
            backend.delete(key)
    return over_cloud(backend, folder)


DRIVERS: dict[str, Callable[[Path], Driver]] = {
    "local": lambda folder: local.LocalDriver(str(folder / "storage")),
    "azure": over_azure,
    "s3": over_s3,
}
EXAMPLES = {"local": 25, "azure": 15, "s3": 2}  # of a state machine: SeaweedFS takes 50 ms for each claim of a lock
ROUNDS = {"local": 30, "azure": 15, "s3": 5}  # of a race, for the same reason
OWNER = (("owner", "lab@example.org"),)
STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')  # RFC 9110 8.8.3
FRESH = itertools.count()  # names that no other example has
CONFLICTS = (errno.EISDIR, errno.ENOTDIR)


@pytest.fixture(params=DRIVERS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def reopen(kind: str, tmp_path: Path) -> Open:
    """Opens the driver once more on the same storage, as a second server process does."""
    return lambda: DRIVERS[kind](tmp_path)


@pytest.fixture
def driver(reopen: Open) -> Driver:
    return reopen()


class Object(NamedTuple):
    """An object with its bytes in memory."""

    content: bytes
    size: int
    etag: str
    modified: int
    content_type: str


def taken(found: Found) -> Object:
    """Reads what was opened, and closes it."""
    content = found.content
    with contextlib.closing(found):
        if content is None and found.descriptor >= 0:
            content = os.pread(found.descriptor, found.size + 1, 0)
        elif content is None:
            content = b"".join(found.blocks(0, found.size))
    return Object(content, found.size, found.etag, found.modified, found.content_type)


def get(driver: Driver, key: str) -> Optional[Object]:
    found = driver.open(key)
    return None if found is None else taken(found)


def put(driver: Driver, key: str, content: bytes, content_type: str = "text/plain", early: bool = True) -> str:
    """Stores an object, whose key is known early or not before the last byte; gives its ETag."""
    with driver.create(key if early else None) as incoming:
        incoming.write(content)
        return incoming.commit(key, content_type, OWNER)


def keys(driver: Driver, prefix: str = "") -> list[str]:
    return list(driver.keys(prefix))


# ---- An object in, the same object out


def test_a_new_storage_is_empty(driver: Driver) -> None:
    assert keys(driver) == []
    assert driver.open("a") is None
    assert driver.open("a/b") is None


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 1_000_000])
def test_an_object_comes_back_as_it_was_stored(driver: Driver, size: int) -> None:
    content = os.urandom(size)
    began = int(time.time())
    etag = put(driver, "builds/x.bin", content, "application/x-test")
    for _ in range(2):  # the second time perhaps out of some memory
        got = get(driver, "builds/x.bin")
        assert got is not None
        assert got.content == content
        assert (got.size, got.etag, got.content_type) == (size, etag, "application/x-test")
        assert began <= got.modified <= time.time()
    assert STRONG_ETAG.fullmatch(etag)


def test_blocks_of_any_size_are_put_together_in_their_order(driver: Driver) -> None:
    blocks = [bytes([number]) * (number * 997 % 5_000) for number in range(100)]
    with driver.create("x") as incoming:
        for block in blocks:
            incoming.write(block)
        incoming.commit("x", "", ())
    got = get(driver, "x")
    assert got is not None
    assert got.content == b"".join(blocks)


def test_an_object_without_a_type_has_none(driver: Driver) -> None:
    """UP-12: the caller goes by the extension."""
    put(driver, "x.txt", b"x", "")
    got = get(driver, "x.txt")
    assert got is not None
    assert got.content_type == ""


def test_what_one_process_stores_another_serves(driver: Driver, reopen: Open) -> None:
    etag = put(driver, "x", b"content", "a/b")
    for other in (reopen(), driver):
        got = get(other, "x")
        assert got is not None
        assert (got.content, got.etag, got.content_type) == (b"content", etag, "a/b")
        assert keys(other) == ["x"]


SEAWEEDS_OWN = frozenset("\\\ufffe\uffff")
SEGMENTS = st.text(st.characters(codec="utf-8", exclude_characters="/", min_codepoint=32), min_size=1, max_size=60)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=5).map("/".join).filter(names.is_key)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=KEYS, content=st.binary(max_size=100), early=st.booleans())
def test_every_key_that_the_protocol_allows_works(
    driver: Driver, kind: str, key: str, content: bytes, early: bool
) -> None:
    """Invariant: whatever is_key, is stored, found and listed under that very name (UP-3)."""
    if kind == "s3":  # SeaweedFS takes a backslash for a slash, and XML has no noncharacters: test_s3.py
        assume(SEAWEEDS_OWN.isdisjoint(key))
    key = f"{next(FRESH)}/{key}"
    put(driver, key, content, early=early)
    got = get(driver, key)
    assert got is not None
    assert got.content == content
    assert key in keys(driver, key)


@pytest.mark.parametrize(
    "key",
    [
        "sp ace%22q\\b-ü€;x=1.txt",
        "+=~;,%/a..b/.hidden/-rf",
        "*?[a]$(x)`y`/~root/.metadatax",
        "e\u0301/\u00e9/\U0001f600",  # two ways to write é are two names
        "s" * 255,
        "ü" * 127,
        "/".join(["d" * 254] * 4) + "/end",  # 1,023 bytes
        "/".join("x" * 512),  # 512 segments
    ],
    ids=["spaces", "signs", "shell", "unicode", "long segment", "long in bytes", "long", "deep"],
)
def test_odd_and_extreme_keys(driver: Driver, key: str, kind: str) -> None:
    if kind == "s3" and "\\" in key:
        pytest.skip("SeaweedFS takes a backslash for a slash; test_s3.py looks at what is sent")
    assert names.is_key(key)
    put(driver, key, b"odd")
    got = get(driver, key)
    assert got is not None
    assert got.content == b"odd"
    assert keys(driver) == [key]


# ---- An object over another (UP-8, DL-2, DL-6)


def test_an_overwrite_changes_everything_at_once(driver: Driver, reopen: Open) -> None:
    first = put(driver, "x", b"old", "a/old")
    assert get(driver, "x") is not None
    second = put(reopen(), "x", b"new!", "a/new")
    got = get(driver, "x")
    assert got is not None
    assert got[:3] + got[4:] == (b"new!", 4, second, "a/new")
    assert first != second
    assert keys(driver) == ["x"]


def test_every_overwrite_has_another_etag(driver: Driver, reopen: Open, kind: str) -> None:
    """DL-2: even with the same bytes, in quick succession, from two processes."""
    if kind == "s3":
        pytest.skip("an ETag of S3 is a hash of the content")
    other = reopen()
    etags = [put(where, "x", b"same", "") for _ in range(20) for where in (driver, other)]
    assert len(set(etags)) == 40


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_reader_gets_the_bytes_it_began_with(driver: Driver, size: int) -> None:
    """DL-6."""
    etag = put(driver, "x", b"o" * size, "a/old")
    readers = [driver.open("x"), driver.open("x")]
    put(driver, "x", b"n" * (size // 2), "a/new")
    for found in readers:
        assert found is not None
        old = taken(found)
        assert (old.content == b"o" * size, old.size, old.etag, old.content_type) == (True, size, etag, "a/old")


def test_of_two_uploads_at_once_the_last_commit_wins(driver: Driver) -> None:
    """The lock table lets this happen only between two processes."""
    with driver.create("x") as one, driver.create("x") as two:
        one.write(b"one")
        two.write(b"two")
        two.commit("x", "a/two", OWNER)
        one.commit("x", "a/one", OWNER)
    got = get(driver, "x")
    assert got is not None
    assert (got.content, got.content_type) == (b"one", "a/one")


# ---- No commit, no trace (UP-8)


class ClientGone(BaseException):
    """Not an Exception: nothing that a driver could be waiting for."""


def abandon(driver: Driver, key: Optional[str], error: Optional[BaseException] = None) -> None:
    with contextlib.suppress(ClientGone, OSError), driver.create(key) as incoming:
        incoming.write(b"half of it")
        if error is not None:
            raise error


ABANDONED = [None, OSError(errno.EIO, "disk"), ClientGone()]


@pytest.mark.parametrize("error", ABANDONED, ids=["left", "failed", "interrupted"])
@pytest.mark.parametrize("key", ["builds/7/x", None])
def test_an_upload_that_is_not_committed_was_never_there(
    driver: Driver, key: Optional[str], error: Optional[BaseException]
) -> None:
    abandon(driver, key, error)
    assert keys(driver) == []
    assert driver.open("builds/7/x") is None
    put(driver, "builds", b"the folder is no hindrance either")


@pytest.mark.parametrize("error", ABANDONED, ids=["left", "failed", "interrupted"])
def test_an_abandoned_overwrite_leaves_the_old_object(driver: Driver, error: Optional[BaseException]) -> None:
    put(driver, "x", b"old", "a/old")
    before = get(driver, "x")
    abandon(driver, "x", error)
    assert get(driver, "x") == before
    assert keys(driver) == ["x"]


def test_an_upload_is_invisible_until_its_commit(driver: Driver, reopen: Open) -> None:
    with driver.create("x") as incoming:
        incoming.write(b"not yet")
        for where in (driver, reopen()):
            assert where.open("x") is None
            assert keys(where) == []
        incoming.commit("x", "", ())
        assert get(reopen(), "x") is not None  # at the commit, and not at the end of the block


def test_an_error_after_the_commit_takes_nothing_back(driver: Driver) -> None:
    """As when the second file of a form is refused."""
    with contextlib.suppress(ClientGone), driver.create("x") as incoming:
        incoming.write(b"content")
        incoming.commit("x", "", ())
        raise ClientGone
    got = get(driver, "x")
    assert got is not None
    assert got.content == b"content"


# ---- Keys that exclude each other (UP-4)


@pytest.mark.parametrize("early", [True, False], ids=["path first", "file first"])
@pytest.mark.parametrize(
    ("there", "wanted"), [("a/b/c", "a/b"), ("a/b/c", "a"), ("a", "a/b"), ("a/b", "a/b/c/d/e"), ("a/b", "a/b/c")]
)
def test_an_object_is_no_folder(driver: Driver, there: str, wanted: str, early: bool) -> None:
    put(driver, there, b"first")
    before = get(driver, there)
    with pytest.raises(OSError, match="directory") as refused:
        put(driver, wanted, b"second", early=early)
    assert refused.value.errno in CONFLICTS
    assert get(driver, there) == before
    assert driver.open(wanted) is None
    assert keys(driver) == [there]


def test_a_folder_is_no_object(driver: Driver) -> None:
    """DL-3."""
    put(driver, "a/b/c", b"x")
    assert driver.open("a") is None
    assert driver.open("a/b") is None
    assert driver.open("a/b/c/d") is None


# ---- The listing (LS-1)


def test_keys_are_sorted_by_their_bytes(driver: Driver) -> None:
    """`/` sorts between `.` and `0`, so folders do not come where their names would."""
    stored = ["a-b", "a.b", "a/b", "a/b-c", "a/b0", "a0", "A", "\uffee", "\U0001f600", "é", "z/é/1", "z/é-"]
    for key in stored:
        put(driver, key, b"")
    assert keys(driver) == sorted(stored, key=str.encode)


def test_a_prefix_is_plain_text(driver: Driver) -> None:
    """Not a folder, not a pattern: as the prefix of a permission (AU-6)."""
    for key in ("lab", "lab-2/x", "labs/a/1", "labs/a/2", "labs/b", "other/lab", "é/x"):
        put(driver, key, b"")
    assert keys(driver, "lab") == ["lab", "lab-2/x", "labs/a/1", "labs/a/2", "labs/b"]
    assert keys(driver, "labs/") == ["labs/a/1", "labs/a/2", "labs/b"]
    assert keys(driver, "labs/a/") == ["labs/a/1", "labs/a/2"]
    assert keys(driver, "labs/a/1") == ["labs/a/1"]
    assert keys(driver, "labs/a/1/") == []
    assert keys(driver, "*") == keys(driver, "/lab") == keys(driver, "../") == keys(driver, "b") == []
    assert keys(driver, "é") == ["é/x"]


def test_a_listing_can_be_left_half_way(driver: Driver) -> None:
    """As by a client that has seen enough."""
    for number in range(10):
        put(driver, f"d{number}/x", b"")
    listing = driver.keys("")
    assert list(itertools.islice(listing, 3)) == ["d0/x", "d1/x", "d2/x"]
    assert next(listing) == "d3/x"


def test_a_listing_has_every_key_that_stays(driver: Driver, kind: str) -> None:
    """Uploads and overwrites go on while a listing is read."""
    stay = [f"stay/{number:02}" for number in range(20)]
    for key in stay:
        put(driver, key, b"")
    done = threading.Event()

    def upload() -> None:
        for number in itertools.count():
            put(driver, stay[number % len(stay)], b"again")
            put(driver, f"come/{number}", b"")
            if done.is_set():
                return

    with ThreadPoolExecutor(2) as pool:
        uploads = [pool.submit(upload) for _ in range(2)]
        try:
            for _ in range(ROUNDS[kind]):
                listed = keys(driver)
                assert listed == sorted(listed)
                assert [key for key in listed if key.startswith("stay/")] == stay
                assert all(key.startswith("come/") for key in set(listed) - set(stay))
        finally:
            done.set()
        for finished in uploads:
            finished.result()


# ---- Many at once: any thread may call


def test_different_keys_do_not_disturb_each_other(driver: Driver, reopen: Open) -> None:
    """They share folders, which each of them may be the first to make."""
    drivers = [driver, reopen()]

    def upload(number: int) -> None:
        for turn in range(8):
            put(drivers[number % 2], f"{turn}/a/{turn}/{number}", b"%d" % number, f"a/{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, range(8)))
    assert keys(driver) == sorted(f"{turn}/a/{turn}/{number}" for turn in range(8) for number in range(8))
    for key in keys(driver):
        got = get(driver, key)
        assert got is not None
        assert (got.content_type, got.content) == ("a/" + key[-1], key[-1].encode())


def test_the_folders_of_a_failed_upload_are_not_taken_from_another(driver: Driver, kind: str) -> None:
    """Half of the uploads find the key that they want to be a folder; the others make and fill just these folders."""
    if kind != "local":
        pytest.skip("a cloud has no folders, and two uploads at the same moment may make a key of one")

    def upload(number: int) -> int:
        won = 0
        for turn in range(20):
            key = f"{turn}/x" if number % 2 else f"{turn}/x/y"
            with contextlib.suppress(IsADirectoryError, NotADirectoryError):
                put(driver, key, b"%d" % number, early=False)
                won += 1
        return won

    with ThreadPoolExecutor(4) as pool:
        won = sum(pool.map(upload, range(4)))
    assert len(keys(driver)) == 20
    assert won >= 20


def version(content: bytes) -> str:
    """The number that a version's content repeats all over, as the subtype of its media type."""
    number, _, _ = content.partition(b" ")
    assert content == (number + b" ") * (len(content) // (len(number) + 1))
    return f"a/{number.decode()}"


def test_readers_see_one_version_whole_whatever_is_written(driver: Driver, reopen: Open, kind: str) -> None:
    """UP-8: content, type and ETag always belong together, with writers in two processes.

    Of a cloud, what another server replaces while it is read has an end before its end: no mixture.
    """
    drivers, etags = [driver, reopen()], dict[str, bytes]()
    numbers, done = itertools.count(), threading.Event()

    def store(where: Driver) -> str:
        number = next(numbers)
        content = b"%d " % number * (100 if number % 3 else 30_000)
        etag = put(where, "x", content, f"a/{number}")
        etags[etag] = content
        return etag

    def write(where: Driver) -> None:
        for _ in range(ROUNDS[kind]):
            store(where)

    def read(where: Driver) -> Sequence[tuple[str, bytes]]:
        seen = []
        while not done.is_set():
            try:
                got = get(where, "x")
            except OSError as error:
                if kind == "local" or error.errno != errno.ESTALE:
                    raise
                continue
            assert got is not None
            assert got.content_type == version(got.content)
            seen.append((got.etag, got.content))
        return seen

    store(driver)
    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, where) for where in drivers]
        writers = [pool.submit(write, where) for where in drivers]
        try:
            for writer in writers:
                writer.result()
        finally:
            done.set()
        seen = [pair for reader in readers for pair in reader.result()]
    assert len(etags) == 2 * ROUNDS[kind] + 1
    assert all(etags[etag] == content for etag, content in seen)
    assert len({etag for etag, _ in seen}) > 1, "no reader ever saw a change"


# ---- Any sequence of calls


class DriverModel(RuleBasedStateMachine):
    """Invariant: two instances of a driver on one storage are, together, a dictionary."""

    driver_name: str
    KEYS = st.sampled_from(["a", "a/b", "a/b/c", "a-b", "a/c", "b", "b/a/é"])

    def __init__(self) -> None:
        super().__init__()
        self.held = contextlib.ExitStack()
        folder = Path(self.held.enter_context(tempfile.TemporaryDirectory()))
        self.drivers = [DRIVERS[self.driver_name](folder) for _ in range(2)]
        self.model: dict[str, tuple[bytes, str, str]] = {}
        self.incoming: list[tuple[Incoming, bytes]] = []

    def conflicts(self, key: str) -> bool:
        return any(other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in self.model)

    @rule(key=KEYS, content=st.binary(max_size=20), number=st.integers(0, 9), which=st.booleans(), early=st.booleans())
    def store(self, key: str, content: bytes, number: int, which: bool, early: bool) -> None:
        if self.conflicts(key):
            with pytest.raises(OSError, match="directory") as refused:
                put(self.drivers[which], key, content, f"a/{number}", early)
            assert refused.value.errno in CONFLICTS
        else:
            etag = put(self.drivers[which], key, content, f"a/{number}", early)
            self.model[key] = content, f"a/{number}", etag

    @rule(content=st.binary(max_size=20), which=st.booleans())
    def begin_upload(self, content: bytes, which: bool) -> None:
        incoming = self.held.enter_context(self.drivers[which].create(None))
        incoming.write(content)
        self.incoming.append((incoming, content))

    @rule(key=KEYS)
    def commit_oldest_upload(self, key: str) -> None:
        if self.incoming and not self.conflicts(key):
            incoming, content = self.incoming.pop(0)
            self.model[key] = content, "a/late", incoming.commit(key, "a/late", ())

    @rule(key=KEYS, which=st.booleans())
    def read(self, key: str, which: bool) -> None:
        got = get(self.drivers[which], key)
        assert self.model.get(key) == (None if got is None else (got.content, got.content_type, got.etag))

    @rule(prefix=KEYS | st.sampled_from(["", "a/", "b/a/", "c"]))
    def search(self, prefix: str) -> None:
        expected = sorted((key for key in self.model if key.startswith(prefix)), key=str.encode)
        assert keys(self.drivers[0], prefix) == expected

    @invariant()
    def lists_what_was_stored(self) -> None:
        assert keys(self.drivers[1]) == sorted(self.model, key=str.encode)

    def teardown(self) -> None:
        self.held.close()


@pytest.mark.parametrize("name", DRIVERS)
def test_any_sequence_of_calls_does_what_a_dictionary_would(name: str) -> None:
    class Model(DriverModel):
        driver_name = name

    few = settings(deadline=None, max_examples=EXAMPLES[name], stateful_step_count=20)
    run_state_machine_as_test(Model, settings=few)
