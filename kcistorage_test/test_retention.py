"""Retention: which objects are past their time, and how one is deleted for good (UP-12)."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Callable, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kcistorage
from kcistorage_parts import files, local, retention
from kcistorage_parts.local import DAY, Expired, LocalDriver, entity_tag
from kcistorage_parts.retention import SET_SECONDS, SWEEP_SECONDS, Clock, Retention
from kcistorage_test.conftest import Running, Start
from kcistorage_test.test_handlers import HalfUpload, until, values
from kcistorage_test.test_local import (
    KEY,
    NEW,
    NEWER,
    OLD,
    Between,
    Dead,
    Nth,
    Storage,
    System,
    Version,
    bound_by_permissions,
    each_call,
    failure,
    old_stored,
    taken,
)

NOW = 1_800_000_000.0
SIX_MONTHS = {"6m": 180.0}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage")


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    system = System()
    for part in (local, files):
        monkeypatch.setattr(part, "os", system)
        monkeypatch.setattr(part, "fcntl", system, raising=False)
    return system


# ---- Which objects are past their time


def keep(driver: LocalDriver, key: str, age_days: float, value: str = "6m", tag: str = "retention") -> str:
    """Stores an object as it was done so many days before NOW; gives its ETag."""
    with pytest.MonkeyPatch.context() as patch, driver.create(key) as incoming:
        patch.setattr("kcistorage_parts.local.time.time_ns", lambda: int((NOW - age_days * DAY) * 10**9))
        return incoming.commit(key, "", [("owner", "x"), (tag, value)])


def past(driver: LocalDriver, days: Mapping[str, float] = SIX_MONTHS, tag: str = "retention") -> list[str]:
    return [found.key for found in driver.expired(tag, days, NOW)]


def test_what_is_past_its_time_is_told_with_version_and_age(storage: Storage) -> None:
    etag = keep(storage.driver, "lab/old", 200.5)
    keep(storage.driver, "lab/young", 179.9)
    assert list(storage.driver.expired("retention", SIX_MONTHS, NOW)) == [Expired("lab/old", etag, "6m", 200.5)]


AGES = {f"{value}-{age}": (value, age) for value in ("6m", "1y", "never") for age in (-400, 0, 0.5, 180, 365, 10_000)}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> LocalDriver:
    """Objects of many ages."""
    driver = LocalDriver(str(tmp_path_factory.mktemp("shelf")))
    for key, (value, age) in AGES.items():
        keep(driver, key, age, value)
    return driver


ANY_NUMBER = st.sampled_from([-math.inf, -1, 0, 0.5, 180, 365, math.inf, math.nan]) | st.floats()


@settings(deadline=None)  # on a busy host the first one reads for long
@given(
    days=st.dictionaries(st.sampled_from(["6m", "1y", "2y", ""]), ANY_NUMBER),
    later=st.integers(-20_000, 20_000) | st.floats(-1, 1),
)
def test_older_than_the_days_of_its_tag_and_from_the_past(
    shelf: LocalDriver, days: Mapping[str, float], later: float
) -> None:
    """Invariant: expired is age > days[value] and age > 0: what comes from the future stays, whatever is configured."""
    ages = {found.key: found.age_days for found in shelf.expired("retention", days, NOW + later * DAY)}
    assert list(ages) == sorted(ages)
    for key, (value, stored) in AGES.items():
        age, most = stored + later, days.get(value, math.inf)
        if min(abs(age), abs(age - most)) > 1e-6 or math.isnan(most):  # days; a file's time is no round number
            assert (key in ages) == (age > 0 and age > most)
        assert key not in ages or abs(ages[key] - age) < 1e-6


def test_without_any_days_nothing_is_past(storage: Storage) -> None:
    keep(storage.driver, KEY, 10_000)
    assert past(storage.driver, {}) == []


def by_hand(storage: Storage) -> None:
    storage.headers.unlink()


def of_upstream(storage: Storage) -> None:
    """A tool that knows no ETags: nobody can tell whether it meant this version."""
    storage.headers.write_text("content-type:a/b\ntag-owner:x\ntag-retention:6m\n")


def of_another_version(storage: Storage) -> None:
    storage.headers.write_text(storage.headers.read_text().replace('etag:"', 'etag:"1'))


def touched(storage: Storage) -> None:
    os.utime(storage.content, (NOW - 300 * DAY, NOW - 300 * DAY))


def cut_short(storage: Storage) -> None:
    os.truncate(storage.headers, storage.headers.stat().st_size - 3)


def of_zeros(storage: Storage) -> None:
    storage.headers.write_bytes(bytes(storage.headers.stat().st_size))


def too_long(storage: Storage) -> None:
    storage.headers.write_text("x:y\n" * 100_000 + storage.headers.read_text())


def of_another_tag(storage: Storage) -> None:
    storage.headers.write_text(storage.headers.read_text().replace("tag-retention", "tag-keep"))


def of_another_value(storage: Storage) -> None:
    storage.headers.write_text(storage.headers.read_text().replace(":6m", ":6mm"))


def of_no_value(storage: Storage) -> None:
    storage.headers.write_text(storage.headers.read_text().replace(":6m", ":"))


def no_file(storage: Storage) -> None:
    storage.headers.unlink()
    os.mkfifo(storage.headers)


KEEPERS = [
    by_hand,
    of_upstream,
    of_another_version,
    touched,
    cut_short,
    of_zeros,
    too_long,
    of_another_tag,
    of_another_value,
    of_no_value,
    no_file,
]


@pytest.mark.parametrize("sidecar", KEEPERS)
def test_only_a_content_s_very_own_sidecar_says_that_it_may_go(
    storage: Storage, sidecar: Callable[[Storage], None]
) -> None:
    keep(storage.driver, KEY, 200)
    assert past(storage.driver) == [KEY]
    sidecar(storage)
    assert past(storage.driver) == []


def test_a_sidecar_that_cannot_be_read_keeps_its_object_and_no_other(storage: Storage) -> None:
    keep(storage.driver, KEY, 200)
    keep(storage.driver, "z", 200)
    storage.headers.chmod(0)
    with bound_by_permissions():
        assert past(storage.driver) == ["z"]


def test_a_sidecar_that_a_crash_left_pending_counts(storage: Storage) -> None:
    keep(storage.driver, KEY, 200)
    storage.headers.rename(storage.next)
    storage.headers.write_text('tag-retention:never\netag:"1-1"\n')
    assert past(storage.driver) == [KEY]


def test_the_tag_may_have_another_name(storage: Storage) -> None:
    keep(storage.driver, KEY, 200, tag="Keep.for_")
    assert past(storage.driver, tag="Keep.for_") == [KEY]
    assert past(storage.driver) == []


def test_what_vanishes_meanwhile_is_not_told(storage: Storage) -> None:
    keep(storage.driver, "a", 200)
    keep(storage.driver, "b", 200)
    found = storage.driver.expired("retention", SIX_MONTHS, NOW)
    assert next(found).key == "a"
    (storage.folder / "b").unlink()
    assert list(found) == []


def test_who_only_looks_changes_nothing(storage: Storage, tmp_path: Path) -> None:
    """A dry run: not even what a dead upload left goes, and no folder is made."""
    keep(storage.driver, KEY, 200)
    (storage.uploads / "dead").touch()
    assert past(LocalDriver(str(storage.folder), serve=False)) == [KEY]
    assert (storage.uploads / "dead").exists()
    with pytest.raises(FileNotFoundError):
        past(LocalDriver(str(tmp_path / "elsewhere"), serve=False))
    assert not (tmp_path / "elsewhere").exists()


# ---- It must not hurt requests


def test_the_sidecar_of_a_young_object_is_not_read(storage: Storage, system: System) -> None:
    """Most objects are young."""
    keep(storage.driver, KEY, 20)
    system.calls.clear()
    assert past(storage.driver, {"6m": 180, "1m": 30}) == []
    assert not [path for name, path in system.calls if name == "open"]


def test_it_rests_at_each_name_and_ends_when_it_shall(storage: Storage) -> None:
    for number in range(20):
        (storage.folder / f"{number}").touch()
    never = Nth(1_000_000, Dead())
    assert list(storage.driver.expired("retention", SIX_MONTHS, NOW, partial(never, "pace"))) == []
    assert never.count >= 40, "for each name as it is listed, and as it is looked at"
    for number in range(1, never.count + 1):
        with pytest.raises(Dead):
            list(storage.driver.expired("retention", SIX_MONTHS, NOW, partial(Nth(number, Dead()), "pace")))


def test_any_number_of_objects_in_bounded_memory(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SORTED_IN_MEMORY", 500)
    for number in range(1_500):
        os.mknod(storage.folder / f"{number:0200}")
    tracemalloc.start()
    try:
        assert past(storage.driver, {"6m": -1e6}) == []
        assert tracemalloc.get_traced_memory()[1] < 1_500 * 200, "a list of their names takes more"
    finally:
        tracemalloc.stop()


# ---- How one goes: UP-8 in reverse


def nothing_left(storage: Storage) -> bool:
    return list(storage.folder.iterdir()) == [storage.private] and storage.private_files() == set()


def test_a_version_is_deleted_with_its_sidecar_and_its_folders(storage: Storage) -> None:
    etag = storage.put(OLD)
    assert storage.driver.delete(KEY, etag)
    assert storage.get() is None
    assert nothing_left(storage)
    assert not storage.driver.delete(KEY, etag), "it is gone"
    storage.put(NEW)
    assert storage.get() == NEW
    storage.assert_tidy()


def test_another_version_is_left_alone(storage: Storage) -> None:
    etag = storage.put(OLD)
    storage.put(NEW)
    assert not storage.driver.delete(KEY, etag)
    assert storage.get() == NEW
    storage.assert_tidy()


@pytest.mark.parametrize("key", ["no", "no/thing", f"{KEY}/x", "lab", "lab/job"])
def test_where_no_object_is_nothing_is_deleted(storage: Storage, key: str) -> None:
    etag = storage.put(OLD)
    assert not storage.driver.delete(key, etag)
    assert storage.get() == OLD
    storage.assert_tidy()


def test_other_objects_keep_their_folders(storage: Storage) -> None:
    for key in ("lab/y", "x", "lab/job/deep/er/z"):
        Storage(storage.folder, key).put(NEW)
    deep = Storage(storage.folder, "lab/job/deep/er/z")
    assert storage.driver.delete("x", Storage(storage.folder, "x").put(OLD))
    assert storage.driver.delete(deep.key, deep.put(OLD))
    assert list(storage.driver.keys("")) == ["lab/y"]
    assert sorted(path.name for path in storage.folder.iterdir()) == [".metadata", "lab"]
    assert [path.name for path in (storage.folder / "lab").iterdir()] == ["y"]


def test_content_that_was_copied_in_is_deleted_too(storage: Storage) -> None:
    storage.content.parent.mkdir(parents=True)
    storage.content.write_bytes(b"by hand")
    stored = storage.driver.open(KEY)
    assert stored is not None
    assert storage.driver.delete(KEY, stored.etag)
    assert nothing_left(storage)


def test_of_a_link_only_the_link_goes(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"linked")
    (storage.folder / "x").symlink_to(tmp_path / "elsewhere")
    stored = storage.driver.open("x")
    assert stored is not None
    assert storage.driver.delete("x", stored.etag)
    assert (tmp_path / "elsewhere").read_bytes() == b"linked"
    assert nothing_left(storage)


def test_what_was_in_memory_is_not_served_any_more(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SETTLED_NS", -(10**18))
    etag = storage.put(OLD)
    assert storage.get(storage.driver) == OLD
    assert storage.driver.at_hand(KEY) is not None
    assert LocalDriver(str(storage.folder)).delete(KEY, etag), "by another process"
    assert storage.driver.at_hand(KEY) is None
    assert storage.get(storage.driver) is None
    etag = storage.put(NEW)
    assert storage.get(storage.driver) == NEW
    assert storage.driver.delete(KEY, etag)
    assert storage.driver.at_hand(KEY) is None


def test_a_download_under_way_ends_with_what_it_began_with(storage: Storage) -> None:
    """DL-6."""
    large = OLD._replace(content=b"x" * 100_000)
    etag = storage.put(large)
    stored = storage.driver.open(KEY)
    assert stored is not None
    assert storage.driver.delete(KEY, etag)
    assert taken(stored) == large.content


# ---- A crash at any step leaves the object whole, or gone

PROGRAM = """
import itertools, json, os, sys
from kcistorage_parts.local import LocalDriver
from kcistorage_test.mortal import CHANGES, make_mortal
for line in sys.stdin:
    number, storage, key, etag = json.loads(line)
    child = os.fork()
    if not child:
        count = itertools.count(1)
        for name in CHANGES:
            make_mortal(name, storage, lambda: next(count) == number)
        os._exit(0 if LocalDriver(storage).delete(key, etag) else 1)
    print(os.waitpid(child, 0)[1], flush=True)
"""
Kill = Callable[[int, Storage, str], int]


@pytest.fixture
def kill() -> Iterator[Kill]:
    """Deletes in a process of its own that dies just before its n-th change of the storage; gives the wait status."""
    home, pipe = Path(local.__file__).parents[1], subprocess.PIPE
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=home, stdin=pipe, stdout=pipe, text=True)
    assert program.stdin is not None
    assert program.stdout is not None
    ask, answer = program.stdin, program.stdout

    def kill_one(number: int, storage: Storage, etag: str) -> int:
        print(json.dumps([number, str(storage.folder), KEY, etag]), file=ask, flush=True)
        return int(answer.readline())

    yield kill_one
    ask.close()
    assert program.wait(20) == 0
    answer.close()


def settled(storage: Storage) -> str:
    return storage.put(OLD)


def pending(storage: Storage) -> str:
    """The server that stored it was killed before the last step."""
    etag = storage.put(OLD)
    storage.headers.rename(storage.next)
    storage.headers.write_text('content-type:a/older\netag:"1-1"\n')
    return etag


def with_a_neighbour(storage: Storage) -> str:
    Storage(storage.folder, "lab/job/neighbour").put(NEW)
    return storage.put(OLD)


def neighbour(storage: Storage) -> Optional[Version]:
    return Storage(storage.folder, "lab/job/neighbour").get()


def assert_tidies_up(storage: Storage) -> None:
    """The next upload leaves nothing of what was before."""
    storage.put(NEWER)
    assert storage.get() == NEWER
    sidecars = {path.name for path in storage.private.iterdir()}
    assert {name for name in sidecars if name.startswith(storage.headers.stem)} == {storage.headers.name}


@pytest.mark.parametrize("scene", [settled, pending, with_a_neighbour])
def test_killed_at_each_change(scene: Callable[[Storage], str], kill: Kill, tmp_path: Path) -> None:
    seen = []
    for number in itertools.count(1):
        storage = Storage(tmp_path / f"{number}")
        status = kill(number, storage, scene(storage))
        seen.append(storage.get())
        assert list(storage.driver.keys("lab/job/x")) == ([KEY] if seen[-1] else [])
        assert neighbour(storage) == (NEW if scene is with_a_neighbour else None)
        assert_tidies_up(storage)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    gone = seen.index(None)
    assert seen == [OLD] * gone + [None] * (len(seen) - gone)
    assert gone >= 3
    assert len(seen) - gone >= 5


def version(storage: Storage) -> str:
    """The ETag of what is there."""
    return entity_tag(storage.content.stat())


def delete(storage: Storage, etag: str) -> bool:
    """As another process does."""
    return LocalDriver(str(storage.folder)).delete(KEY, etag)


def test_killed_at_any_system_call(tmp_path: Path, system: System) -> None:
    """Invariant: afterwards the object is whole, and can be deleted, or it is gone."""
    seen = set()
    for storage in each_call(Dead, old_stored, tmp_path, system):
        etag = version(storage)
        with contextlib.suppress(Dead):
            delete(storage, etag)
        system.before = lambda name: None
        system.bury()
        found = storage.get()
        assert found in (OLD, None)
        assert storage.driver.delete(KEY, etag) == (found == OLD)
        assert storage.get() is None
        assert found is None or nothing_left(storage)
        assert_tidies_up(storage)
        seen.add(found)
    assert seen == {OLD, None}


def test_an_error_of_any_system_call(tmp_path: Path, system: System) -> None:
    """Invariant: a deletion that fails leaves the object whole or gone; one that says that it was done has done it."""
    outcomes = set()
    for storage in each_call(lambda: OSError(errno.EIO, "injected"), old_stored, tmp_path, system):
        done: list[bool] = []
        error = failure(lambda storage=storage, done=done: done.append(delete(storage, version(storage))))  # type: ignore[misc]
        system.before = lambda name: None
        found = storage.get()
        assert found in ((OLD, None) if error else (None,))
        assert done == ([] if error else [True])
        assert_tidies_up(storage)
        outcomes.add((error is None, found))
    assert outcomes == {(False, OLD), (False, None), (True, None)}


def test_no_step_begins_before_what_it_builds_on_is_on_the_disk(storage: Storage, system: System) -> None:
    """A loss of power must not bring back a content whose sidecar is gone: it would never expire."""
    etag = storage.put(OLD)
    system.calls.clear()
    assert storage.driver.delete(KEY, etag)
    steps = [
        (name, path.replace(str(storage.folder), "").rstrip("/"))
        for name, path in system.calls
        if name in ("fsync", "unlink", "rmdir")
    ]
    assert steps == [
        ("unlink", "/lab/job/x.bin"),
        ("fsync", "/lab/job"),
        ("unlink", "/.metadata/" + storage.headers.name),
        ("unlink", "/.metadata/" + storage.next.name),
        ("fsync", "/.metadata"),
        ("rmdir", "/lab/job"),
        ("rmdir", "/lab"),
    ]


def test_descriptors_are_closed_whatever_fails(tmp_path: Path, system: System) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for storage in each_call(lambda: OSError(errno.EIO, "injected"), old_stored, tmp_path, system):
        failure(lambda storage=storage: storage.driver.delete(KEY, version(storage)))  # type: ignore[misc]
        assert len(os.listdir("/proc/self/fd")) == before


# ---- Uploads meanwhile, by this process and by others

Act = Callable[[Storage, str], object]


def each_moment(first: Act, second: Act, folder: Path, system: System) -> Iterator[Storage]:
    """Storages with an object on which both have acted, the second one system call of the first later each time, and
    at last after it. An act is given the object's ETag."""
    for number in itertools.count(1):
        system.before = lambda name: None
        storage = Storage(folder / f"{number}")
        etag = storage.put(OLD)
        between = Between(system, number, lambda storage=storage, etag=etag: second(storage, etag))  # type: ignore[misc]
        first(storage, etag)
        system.before = lambda name: None
        if not between.happened:
            second(storage, etag)
        yield storage
        if not between.happened:
            assert number > 15, "these were not all system calls"
            return


def overwrite(storage: Storage, _: str) -> str:
    return storage.put(NEW, LocalDriver(str(storage.folder)))


def upload_neighbour(storage: Storage, _: str) -> str:
    return Storage(storage.folder, "lab/job/neighbour").put(NEW)


@pytest.mark.parametrize(
    ("first", "second"), [(delete, upload_neighbour), (upload_neighbour, delete)], ids=["deletion", "upload"]
)
def test_an_upload_into_a_folder_that_goes_away(first: Act, second: Act, tmp_path: Path, system: System) -> None:
    """Each comes at any moment of the other."""
    for storage in each_moment(first, second, tmp_path, system):
        assert neighbour(storage) == NEW
        assert storage.get() is None
        assert list(storage.driver.keys("")) == ["lab/job/neighbour"]
        assert len(storage.private_files()) == 1


class Rival:
    """Lets another process act, as far as it gets: until it is done, or waits for the key's lock."""

    def __init__(self, act: Act) -> None:
        self._act, self._threads = act, list[threading.Thread]()
        self.outcomes: list[object] = []

    def __call__(self, storage: Storage, etag: str) -> None:
        thread = threading.Thread(target=lambda: self.outcomes.append(self._act(storage, etag)))
        self._threads.append(thread)
        thread.start()
        thread.join(0.03)  # one that waits cannot be told from one that works; what follows holds for both

    def end(self) -> None:
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize(("first", "second"), [(delete, overwrite), (overwrite, delete)], ids=["deletion", "upload"])
def test_a_new_version_is_never_lost_nor_its_sidecar(first: Act, second: Act, tmp_path: Path, system: System) -> None:
    """Each comes at any moment of the other, from another process: no lock of ours keeps them apart."""
    rival, outcomes = Rival(second), set()
    for storage in each_moment(lambda *about: outcomes.add(first(*about)), rival, tmp_path, system):
        rival.end()
        assert storage.get() == NEW
        storage.assert_tidy()
    deletions = outcomes if first is delete else set(rival.outcomes)
    assert deletions == {True, False}


WRITER = """
import sys
from kcistorage_parts.local import LocalDriver
root, name = sys.argv[1:]
for number in range(60):
    for key in ("lab/job/x.bin", f"lab/job/{name}"):
        with LocalDriver(root).create(key) as incoming:
            content = f"{name}{number}"
            incoming.write(content.encode() * (number * 500 + 1))
            incoming.commit(key, f"a/{content}", [("owner", content)])
"""


def test_two_real_processes_that_store_what_we_delete(storage: Storage) -> None:
    """Whatever is there has its own sidecar, and no upload fails for want of a folder."""
    home, deleted = Path(local.__file__).parents[1], 0
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(storage.folder), name], cwd=home) for name in "ab"]
    while None in [writer.poll() for writer in writers]:
        for key in (KEY, "lab/job/a", "lab/job/b"):
            stored = storage.driver.open(key)
            if stored is not None:
                word, content = stored.content_type[2:].encode(), taken(stored)
                assert content == word * (stored.size // len(word))
                deleted += storage.driver.delete(key, stored.etag)
    assert [writer.wait() for writer in writers] == [0, 0]
    assert deleted > 20
    for key in list(storage.driver.keys("")):
        stored = storage.driver.open(key)
        assert stored is not None
        taken(stored)
        assert stored.content_type == "a/" + stored.content_type[2] + "59"
        assert storage.driver.delete(key, stored.etag)
    assert nothing_left(storage)


# ---- When to delete


class Time:
    """Two clocks that a test moves."""

    def __init__(self) -> None:
        self.wall, self.even = NOW, 50.0
        self.clock = Clock(lambda: self.wall, lambda: self.even)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.even += seconds


def test_a_clock_is_trusted_once_it_ran_evenly_between_two_passes() -> None:
    host = Time()
    assert host.clock.ask() is None, "it may have been wrong since the host began"
    host.wait(300)
    assert host.clock.ask() == NOW + 300
    host.wait(100_000)
    host.wall += SET_SECONDS / 2
    assert host.clock.ask() == host.wall, "it drifts"


@pytest.mark.parametrize("jump", [-12 * 365 * DAY, -SET_SECONDS, SET_SECONDS, 12 * 365 * DAY])
def test_a_clock_that_was_set_is_not_trusted_until_the_next_pass(jump: float) -> None:
    """Nor before: a board without a battery may begin years ahead, and learns the time a minute later."""
    host = Time()
    host.clock.ask()
    host.wait(300)
    host.wall += jump
    assert host.clock.ask() is None
    host.wait(300)
    assert host.clock.ask() == NOW + 600 + jump


def test_the_host_s_own_clock_runs_evenly() -> None:
    clock = Clock()
    assert clock.ask() is None
    told = clock.ask()
    assert told is not None
    assert abs(told - time.time()) < 5


def some(*keys: str) -> list[Expired]:
    return [Expired(key, f'"{key}"', "6m", 200) for key in keys]


class Desk:
    """A Retention whose clock is trusted by now, and a driver's `delete` that does as it is told."""

    def __init__(self) -> None:
        self.time = Time()
        self.time.clock.ask()
        self.retention = Retention(self._delete, self.time.clock)
        self.asked: list[tuple[str, str]] = []
        self.times: list[float] = []

    def _delete(self, key: str, etag: str) -> bool:
        self.asked.append((key, etag))
        if key == "broken":
            raise OSError(errno.EIO, "injected")
        return key != "replaced"

    def sweep(self, *keys: str) -> list[tuple[str, Optional[int]]]:
        def expired(now: float) -> list[Expired]:
            self.times.append(now)
            return some(*keys)

        return [(past.key, error.errno if error else None) for past, error in self.retention.sweep(expired)]


def test_what_is_past_its_time_is_deleted_and_told() -> None:
    desk = Desk()
    assert desk.sweep("a", "replaced", "b") == [("a", None), ("b", None)]
    assert desk.asked == [("a", '"a"'), ("replaced", '"replaced"'), ("b", '"b"')]
    assert desk.times == [NOW]


def test_one_that_cannot_be_deleted_is_told_and_keeps_no_other() -> None:
    assert Desk().sweep("a", "broken", "b") == [("a", None), ("broken", errno.EIO), ("b", None)]


def test_a_sweep_comes_once_an_hour() -> None:
    desk = Desk()
    desk.sweep()
    for _ in range(4):
        desk.time.wait(SWEEP_SECONDS / 4)
        assert len(desk.times) == 1
        desk.sweep()
    assert desk.times == [NOW, NOW + SWEEP_SECONDS]


def test_nothing_goes_by_a_clock_that_is_not_trusted() -> None:
    desk = Desk()
    desk.time.wall += 12 * 365 * DAY
    assert desk.sweep("a") == []
    assert desk.times == []
    desk.time.wall -= 12 * 365 * DAY
    assert desk.sweep("a") == [], "it was set again"
    assert desk.sweep("a") == [("a", None)]


def test_what_ends_the_walk_ends_the_sweep() -> None:
    """The server stops."""

    def expired(now: float) -> Iterator[Expired]:
        yield from some("a")
        raise Dead

    desk = Desk()
    deleted = desk.retention.sweep(expired)
    assert next(deleted)[0].key == "a"
    with pytest.raises(Dead):
        next(deleted)


def test_a_storage_is_swept(storage: Storage) -> None:
    """All of it together."""
    keep(storage.driver, "lab/old", 200)
    keep(storage.driver, "lab/young", 100)
    host = Time()
    retention = Retention(storage.driver.delete, host.clock)
    swept = [
        past.key
        for _ in range(3)
        for past, error in retention.sweep(lambda now: storage.driver.expired("retention", SIX_MONTHS, now))
        if error is None
    ]
    assert swept == ["lab/old"]
    assert list(storage.driver.keys("")) == ["lab/young"]


# ---- In a server


@pytest.fixture
def sweeping(start: Start, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A server that sweeps all the time."""
    monkeypatch.setattr(retention, "SWEEP_SECONDS", 0.0)
    return start(
        retention=kcistorage.Retention(expire={"6m": 180}), cache=kcistorage.CacheOptions(housekeeping_seconds=0.02)
    )


def beside(server: Running) -> LocalDriver:
    """For another process on the folder of a server."""
    return LocalDriver(str(server.storage), serve=False)


def test_a_server_keeps_what_is_not_past_its_time(sweeping: Running) -> None:
    """UP-12: keys in the order of a sweep, and the last one tells that it is over."""
    driver = beside(sweeping)
    keep(driver, "1 young", 0)
    keep(driver, "2 of another value", 10_000, "1y")
    keep(driver, "3 of another tag", 10_000, "6m", tag="kept")
    keep(driver, "4 touched", 10_000)
    os.utime(sweeping.storage / "4 touched", (0, 0))
    (sweeping.storage / "5 by hand").touch()
    os.utime(sweeping.storage / "5 by hand", (0, 0))
    kept = sorted(path.name for path in sweeping.storage.iterdir())
    keep(driver, "6 old", 10_000)
    line = values(sweeping.wait_for_log("event=expired"))
    assert (line["path"], line["tag"]) == ("6 old", "6m")
    assert int(line["age_days"]) > 180
    until(lambda: sorted(path.name for path in sweeping.storage.iterdir()) == kept)
    assert sum("event=expired" in line for line in sweeping.log()) == 1


def test_an_upload_is_not_disturbed(sweeping: Running) -> None:
    """UP-9, UP-12: who stores a new version has the lock of its key. The sweep waits for no longer than a second."""
    with HalfUpload(sweeping, "a", "held", b"new " * 50) as half:
        keep(beside(sweeping), "a/held", 10_000)
        keep(beside(sweeping), "a/next", 10_000)
        assert values(sweeping.wait_for_log("event=expired"))["path"] == "a/next"
        assert (sweeping.storage / "a" / "held").exists()
        assert half.finish().status == 200
    with sweeping.peer() as peer:
        assert peer.get("/a/held").body == b"new " * 50
        assert peer.get("/a/next").status == 404
    assert "a/held" not in "".join(line for line in sweeping.log() if "event=expired" in line)


def test_one_that_cannot_be_deleted_is_in_the_log(sweeping: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-12, LG-1"""

    def delete(driver: LocalDriver, key: str, etag: str) -> bool:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(LocalDriver, "delete", delete)
    keep(beside(sweeping), "a/x", 10_000)
    line = values(sweeping.wait_for_log("event=expire-failed"))
    assert (line["path"], line["tag"]) == ("a/x", "6m")
    assert "Operation not permitted" in line["error"]
    assert not any("housekeeping-failed" in line for line in sweeping.log())
