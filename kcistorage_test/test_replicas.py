"""Copies on pairs of storages: where they lie, which of them is read, and how the others come to be right again.

SO-4 to SO-7. A process that starts now is a `Storages` of its own, with locks and a memory of its own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import random
import re
import shutil
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import kcistorage
from kcistorage_parts import files, replicas
from kcistorage_parts.replicas import SPARE, Damaged, Good, Storages, choose
from kcistorage_test.test_files import opened_below
from kcistorage_test.test_handlers import until
from kcistorage_test.test_local import Between, Dead, Nth, System, bound_by_permissions

CONTENT = b"the content of an object"
OTHER = b"the content of another one"
GB = 10**9


def sha_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


SHA = sha_of(CONTENT)


class Told(NamedTuple):
    """An event for the log."""

    event: str
    about: dict[str, str]


def taken(good: Good) -> bytes:
    """Reads what was opened, and closes it."""
    content = os.pread(good.descriptor, good.size + 1, 0)
    vars(replicas)["os"].close(good.descriptor)  # where there is a System, it keeps books
    assert len(content) == good.size
    return content


class Disks:
    """Pairs of folders, and one process that keeps objects on them."""

    def __init__(self, folder: Path, widths: Sequence[int] = (2,), **options: Any) -> None:
        self.pairs = [
            [folder / f"{number}{letter}" for letter in "abcdef"[:width]] for number, width in enumerate(widths, 1)
        ]
        for storage in itertools.chain(*self.pairs):
            storage.mkdir(parents=True)
        self.options = {"require_mounts": False, **options}
        self.told: list[Told] = []
        self.storages = self.process()

    def process(self, **options: Any) -> Storages:
        """One more process on the same folders."""
        locks = kcistorage.LockTable()
        return Storages(
            [[str(storage) for storage in pair] for pair in self.pairs],
            lambda sha: locks.holding(sha, 10.0, (503, "busy", "")),
            lambda event, **about: self.told.append(Told(event, about)),
            **{**self.options, **options},
        )

    def post(self, content: bytes = CONTENT, storages: Optional[Storages] = None) -> tuple[bool, list[str]]:
        """Whether it was new, and the paths."""
        with (storages or self.storages).create(len(content)) as incoming:
            incoming.write(content)
            assert incoming.sha256() == sha_of(content)
            return incoming.commit(sha_of(content))

    def get(self, sha: str = SHA, storages: Optional[Storages] = None) -> Optional[bytes]:
        found = (storages or self.storages).open(sha)
        return None if found is None else taken(found[1])

    def by_hand(self, pair: int = 0, content: bytes = CONTENT) -> list[Path]:
        """An object that another program has put there."""
        for path in (paths := self.places(pair, sha_of(content))):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, (1_500_000_000, 1_500_000_000))
        return paths

    def places(self, pair: int = 0, sha: str = SHA) -> list[Path]:
        name = sha.upper()
        return [storage / name[:2] / name[2:4] / name[4:6] / f"{name}.dat" for storage in self.pairs[pair]]

    def files(self) -> list[Path]:
        """All there is, of uploads too."""
        return sorted(path for pair in self.pairs for storage in pair for path in storage.rglob("*") if path.is_file())

    def events(self, event: str) -> list[dict[str, str]]:
        return [told.about for told in self.told if told.event == event]


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(tmp_path)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    system = System()
    for part in (replicas, files):
        monkeypatch.setattr(part, "os", system)
    monkeypatch.setattr(files, "fcntl", system)
    return system


# ---- Which pair (SO-6)

SIZES = st.integers(0, 2**63)
FREE = st.lists(st.one_of(st.just(0), st.integers(0, 3 * SPARE), SIZES), max_size=6)
POINT = st.floats(0, 1, exclude_max=True)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(free=FREE, size=st.one_of(st.integers(0, 3 * SPARE), SIZES), point=POINT)
def test_the_choice_of_a_pair(free: list[int], size: int, point: float) -> None:
    """Invariant (SO-6): a pair with room; one with more than 1 GB left after the file if any is, else the roomiest;
    and the same one again for the same point."""
    number = choose(free, size, point)
    if number is None:
        assert all(left <= size for left in free)
        return
    assert free[number] > size
    if any(left - size > GB for left in free):
        assert free[number] - size > GB
    else:
        assert free[number] == max(free)
    assert choose(free, size, point) == number


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(others=st.lists(st.integers(0, 50 * SPARE), max_size=4), at=st.integers(0, 4), size=st.integers(0, SPARE))
def test_the_choice_is_weighted_by_what_is_free(others: list[int], at: int, size: int) -> None:
    """Invariant (SO-6): of all points, each roomy pair gets its share."""
    free = [*others[:at], 3 * SPARE, *others[at:]]
    roomy = {number: left for number, left in enumerate(free) if left - size > SPARE}
    points = 200
    chosen = Counter(choose(free, size, point / points) for point in range(points))
    assert set(chosen) <= set(roomy)
    for number, left in roomy.items():
        assert abs(chosen[number] / points - left / sum(roomy.values())) <= 2 / points


@pytest.mark.parametrize(
    ("free", "size", "chosen"),
    [
        ([], 0, {None}),
        ([0], 0, {None}),
        ([0, 0], 5, {None}),
        ([1], 0, {0}),
        ([100, 100], 100, {None}),
        ([100, 101], 100, {1}),
        ([GB, GB + 1, 5], 0, {1}),
        ([GB + 100, GB + 101], 100, {1}),
        ([GB, 2], 0, {0}),
        ([0, 4 * GB, 0, 4 * GB, 0], 0, {1, 3}),
        ([2**64, 2**64], 0, {0, 1}),
    ],
)
def test_the_choice_at_its_limits(free: list[int], size: int, chosen: set[Optional[int]]) -> None:
    points = [0.0, 1e-300, 0.25, 0.5, 0.75, 1 - 2**-53]
    assert {choose(free, size, point) for point in points} == chosen


class Volume(NamedTuple):
    """What statvfs(2) says."""

    f_bavail: int
    f_frsize: int = 4096
    f_bfree: int = 10**12  # with what is root's


def test_a_pair_has_as_much_free_as_its_fullest_storage(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """SO-6. What is reserved for root is not free."""
    volumes = {str(disks.pairs[0][0]): Volume(10), str(disks.pairs[0][1]): Volume(7)}
    monkeypatch.setattr(os, "statvfs", lambda path: volumes[os.fspath(path)])
    assert disks.storages.free(disks.storages.pairs[0]) == 7 * 4096


def test_a_disk_that_does_not_tell_has_nothing_free(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """SO-6."""

    def fail(path: str) -> None:
        raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(os, "statvfs", fail)
    assert disks.storages.free(disks.storages.pairs[0]) == 0


@pytest.mark.parametrize(
    ("pattern", "writable"), [("1a|1b", True), ("1[ab]$", True), ("1a", False), ("^/nowhere", False)]
)
def test_a_pair_is_writable_if_the_pattern_is_found_in_each_of_its_storages(
    tmp_path: Path, pattern: str, writable: bool
) -> None:
    """SO-6. Upstream's own example is `data[12]` for /mnt/data1 and /mnt/data2."""
    disks = Disks(tmp_path, writable=pattern)
    assert (disks.storages.free(disks.storages.pairs[0]) > 0) == writable


def test_objects_on_pairs_that_are_not_writable_are_read(tmp_path: Path) -> None:
    """SO-6: that, and a post goes to another pair, or nowhere."""
    disks = Disks(tmp_path, (2, 2), writable="/2[ab]$")
    disks.by_hand(0)
    assert disks.get() == CONTENT
    assert disks.post() == (False, [str(path) for path in disks.places(0)])
    for number in range(10):
        created, paths = disks.post(b"%d" % number)
        assert created
        assert paths == [str(path) for path in disks.places(1, sha_of(b"%d" % number))]
    with pytest.raises(OSError, match="No space") as refused:
        disks.post(OTHER, disks.process(writable="nothing"))
    assert refused.value.errno == errno.ENOSPC


# ---- The layout (SO-5)


def test_where_copies_lie(disks: Disks) -> None:
    """SO-5."""
    created, paths = disks.post(b"foo\n")
    sha = "B5BB9D8014A0F9B1D61E21E796D78DCCDF1352F23CD32812F4850B878AE4944C"
    expected = [disks.pairs[0][number] / "B5" / "BB" / "9D" / f"{sha}.dat" for number in (0, 1)]
    assert created
    assert paths == [str(path) for path in expected]
    assert disks.files() == expected
    assert [path.read_bytes() for path in expected] == [b"foo\n"] * 2
    assert len({path.stat().st_mtime_ns for path in expected}) == 1


def test_the_storages_of_somebody_else_are_served_as_they_are(tmp_path: Path) -> None:
    """SO-5: nothing is written for it."""
    disks = Disks(tmp_path, (2, 3))
    for number in range(20):
        disks.by_hand(number % 2, b"%d" % number)
    before = {path: path.stat() for path in tmp_path.rglob("*")}
    for number in range(20):
        found = disks.storages.open(sha_of(b"%d" % number))
        assert found is not None
        assert (found[0], found[1].modified) == (number % 2, 1_500_000_000)
        assert taken(found[1]) == b"%d" % number
    after = {path: path.stat() for path in tmp_path.rglob("*")}
    assert {path: status.st_ctime_ns for path, status in after.items()} == {
        path: status.st_ctime_ns for path, status in before.items()
    }
    assert disks.told == []


def test_an_object_of_no_bytes(disks: Disks) -> None:
    disks.post(b"")
    assert disks.get(sha_of(b"")) == b""
    assert disks.get(sha_of(b""), disks.process()) == b""


def test_copies_of_different_age_have_one_age(disks: Disks) -> None:
    """SO-1: whichever copy is read, Last-Modified is the same, from the first time on."""
    for path, seconds in zip(disks.by_hand(), (1_500_000_001, 1_500_000_000)):
        os.utime(path, (seconds, seconds))
    for _ in range(20):
        storages = disks.process()
        for _ in range(3):
            found = storages.open(SHA)
            assert found is not None
            taken(found[1])
            assert found[1].modified == 1_500_000_000


# ---- Reading: SO-7


def test_every_copy_is_read_now_and_then(tmp_path: Path) -> None:
    """SO-7: at random."""
    disks = Disks(tmp_path, (3,))
    disks.post()
    read: Counter[str] = Counter()
    for _ in range(90):
        found = disks.storages.open(SHA)
        assert found is not None
        assert taken(found[1]) == CONTENT
        read[found[1].copy.storage] += 1
    assert set(read) == {str(storage) for storage in disks.pairs[0]}


def test_the_pair_that_was_told_is_looked_at_first(tmp_path: Path, system: System) -> None:
    disks = Disks(tmp_path, (2, 2))
    disks.by_hand(1)
    assert disks.get() == CONTENT
    system.calls.clear()
    found = disks.storages.open(SHA, 1)
    assert found is not None
    taken(found[1])
    assert not [path for _, path in system.calls if path.startswith(str(disks.pairs[0][0].parent / "1"))]


def test_what_is_not_there_is_not_there(tmp_path: Path) -> None:
    disks = Disks(tmp_path, (2, 3))
    disks.post(OTHER)
    assert disks.get() is None
    assert disks.storages.stored(SHA) == []


def delete(path: Path) -> None:
    path.unlink()


def delete_with_folders(path: Path) -> None:
    shutil.rmtree(path.parents[2])


def lose_the_storage(path: Path) -> None:
    shutil.rmtree(path.parents[3])


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def another_file(path: Path) -> None:
    """With the size and the time of the old one."""
    status = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(bytes(status.st_size))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


def forbid(path: Path) -> None:
    path.chmod(0)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def link_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def file_for_a_folder(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.touch()


Damage = Callable[[Path], None]
CHANGED: list[Damage] = [shorten, empty, lengthen, flip_a_bit, another_file]
GONE: list[Damage] = [delete, delete_with_folders, fifo, dangling_link, link_to_itself, link_to_a_device]
MENDED: list[Damage] = [*CHANGED, *GONE, forbid]
NOT_MENDED: list[Damage] = [lose_the_storage, folder, file_for_a_folder]  # there is something in the way


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("known", [True, False], ids=["read before", "never read"])
@pytest.mark.parametrize("damage", [*MENDED, *NOT_MENDED])
def test_the_twin_wins(disks: Disks, damage: Damage, known: bool, number: int) -> None:
    """SO-7: and the copy that was missing or wrong is restored, with its time, and that is told."""
    paths = disks.by_hand()
    if known:
        assert disks.get() == CONTENT
    damage(paths[number])
    with bound_by_permissions():
        for _ in range(8):
            assert disks.get() == CONTENT
    if damage in NOT_MENDED:
        assert disks.events("restored") == []
        assert len(disks.events("restore-failed")) == (damage is not lose_the_storage), "once, and then it rests"
        return
    assert [(path.read_bytes(), path.stat().st_mtime) for path in paths] == [(CONTENT, 1_500_000_000)] * 2
    was = "damaged" if damage in (*CHANGED, forbid) else "missing"
    assert disks.told == [Told("restored", {"path": str(paths[number]), "was": was})]
    assert disks.files() == paths


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("damage", [shorten, flip_a_bit, forbid, fifo])
def test_no_good_copy(tmp_path: Path, damage: Damage, width: int) -> None:
    """SO-7: then there is nothing to send, and a post heals it."""
    disks = Disks(tmp_path, (width,))
    for path in disks.by_hand():
        damage(path)
    nothing_there = damage is fifo
    with bound_by_permissions():
        if nothing_there:
            assert disks.get() is None
        else:
            with pytest.raises(Damaged):
                disks.get()
        assert disks.storages.stored(SHA) == []
        assert disks.post() == (True, [str(path) for path in disks.places()])
        assert disks.get() == CONTENT
        assert disks.get(storages=disks.process()) == CONTENT
    assert [path.read_bytes() for path in disks.places()] == [CONTENT] * width


def test_a_good_copy_on_another_pair_wins_too(tmp_path: Path) -> None:
    disks = Disks(tmp_path, (2, 2))
    for path in disks.by_hand(0):
        flip_a_bit(path)
    disks.by_hand(1)
    for first in (0, 1):
        found = disks.storages.open(SHA, first)
        assert found is not None
        assert found[0] == 1
        assert taken(found[1]) == CONTENT


DAMAGES = st.one_of(
    st.none(),
    st.sampled_from(["delete", "folder", "fifo"]),
    st.binary(max_size=len(CONTENT) + 2),
    st.integers(0, 8 * len(CONTENT) - 1),  # a bit to flip
)


def apply(damage: object, path: Path) -> None:
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    elif isinstance(damage, int):
        content = bytearray(CONTENT)
        content[damage // 8] ^= 1 << damage % 8
        path.write_bytes(content)
    elif isinstance(damage, str):
        {"delete": delete, "folder": folder, "fifo": fifo}[damage](path)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(damages=st.lists(DAMAGES, min_size=2, max_size=3), before=st.booleans(), posted=st.booleans(), whole=st.data())
def test_no_damage_makes_a_wrong_byte(damages: list[object], before: bool, posted: bool, whole: st.DataObject) -> None:
    """Invariant (SO-7): whatever happens to copies, as long as one of them is good it is read."""
    damages[whole.draw(st.integers(0, len(damages) - 1))] = None
    with tempfile.TemporaryDirectory() as place:
        disks = Disks(Path(place), (len(damages),))
        paths = disks.places()
        disks.post() if posted else disks.by_hand()
        if before:
            assert disks.get() == CONTENT
        for damage, path in zip(damages, paths):
            apply(damage, path)
        for _ in range(4):
            assert disks.get() == CONTENT
        in_the_way = {"folder"}.intersection(damage for damage in damages if isinstance(damage, str))
        wrong = [path for path in paths if not path.is_file() or path.read_bytes() != CONTENT]
        assert not wrong or in_the_way


def test_a_storage_that_is_not_mounted_is_read_past_and_left_alone(
    disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SO-7, SO-8: what would be restored there would fill the disk of the system, below the one that comes back."""
    away = disks.pairs[0][1]
    monkeypatch.setattr(replicas, "is_mounted", lambda storage: Path(storage) != away)
    storages = disks.process(require_mounts=True)
    disks.by_hand()
    shutil.rmtree(away)
    away.mkdir()  # the mount point
    for _ in range(5):
        assert disks.get(storages=storages) == CONTENT
    storages.recover()
    assert list(storages.scrub())[1].what == "missing"
    assert storages.free(storages.pairs[0]) == 0
    assert list(away.iterdir()) == []
    monkeypatch.setattr(replicas, "is_mounted", lambda storage: True)
    assert disks.get(storages=storages) == CONTENT
    assert [path.read_bytes() for path in disks.places()] == [CONTENT] * 2


def test_what_is_read_often_is_hashed_once(disks: Disks, system: System) -> None:
    """And again when somebody has touched it."""
    paths = disks.by_hand()

    def hashed() -> Counter[str]:
        system.calls.clear()
        assert disks.get() == CONTENT
        return Counter(path for name, path in system.calls if name == "pread" and path)

    assert set(hashed()) == {str(path) for path in paths}
    assert hashed() == {}
    paths[1].touch()
    assert set(hashed()) == {str(paths[1])}
    assert hashed() == {}


def test_what_was_posted_or_restored_here_is_not_hashed_again(disks: Disks, system: System) -> None:
    disks.post()
    system.calls.clear()
    assert disks.get() == CONTENT
    assert disks.post() == (False, [str(path) for path in disks.places()])
    assert not [call for call in system.calls if call[0] in ("read", "pread")]
    disks.places()[0].unlink()
    assert disks.get() == CONTENT
    system.calls.clear()
    assert disks.get() == CONTENT
    assert not [call for call in system.calls if call[0] in ("read", "pread")]


def test_what_is_remembered_has_a_bound(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "MOST_VERIFIED", 10)
    contents = [b"%d" % number for number in range(30)]
    for content in contents:
        disks.post(content)
    assert len(disks.storages._verified) == 10
    assert [disks.get(sha_of(content)) for content in contents] == contents


@pytest.mark.parametrize("known", [True, False], ids=["read before", "never read"])
@pytest.mark.parametrize("damage", [delete, shorten, flip_a_bit, another_file])
def test_whatever_happens_to_a_copy_between_two_calls_of_a_reader(
    tmp_path: Path, system: System, damage: Damage, known: bool
) -> None:
    """Invariant (SO-7): it gets the right bytes, once the object is open; before, between and after the hashes."""
    for number in itertools.count(1):
        system.before = lambda name: None
        disks = Disks(tmp_path / f"{number}")
        (bad, _) = disks.by_hand()
        if known:
            assert disks.get() == CONTENT
        between = Between(system, number, lambda bad=bad: damage(bad))  # type: ignore[misc]
        found = disks.storages.open(SHA)
        system.before = lambda name: None
        assert found is not None
        assert taken(found[1]) == CONTENT
        assert disks.get() == CONTENT
        if not between.happened:
            assert number > (4 if known else 8), "these were not all system calls"
            break


def test_a_young_file_is_hashed_when_the_next_change_would_show(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """SO-7: kernels before 6.13 stamp files by a clock that ticks every few milliseconds, and two changes within a tick
    look like one: a hash begins in a tick after that of the last change."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    (path, _) = disks.by_hand()
    changed = path.stat().st_ctime_ns
    with path.open("rb") as file:
        for age in (0, replicas.TICK_NS - 1_000, replicas.TICK_NS, 10**10, -(10**10)):
            monkeypatch.setattr(time, "time_ns", lambda age=age: changed + age)
            assert replicas.settled(file.fileno()) == path.stat()
    assert slept == [replicas.TICK_NS / 1e9, 1e-6], "neither an old one nor one of the future"


def test_a_copy_that_is_found_bad_while_it_is_copied_is_served_no_more(disks: Disks) -> None:
    """SO-7: the disk has changed it behind the back of its file system, which a restore is the first to notice."""
    disks.post()
    good, missing = disks.places()
    flip_a_bit(good)
    storages = disks.storages
    storages._verified[os.fsencode(good)] = files.identity(good.stat())  # as if nothing had happened
    missing.unlink()
    with pytest.raises(Damaged):
        disks.get()
    assert not missing.exists()
    assert disks.post()[0]
    assert disks.get() == CONTENT


def test_of_three_the_one_that_is_really_good_wins(tmp_path: Path) -> None:
    """SO-7: as before, with a third copy, from which the next read restores."""
    disks = Disks(tmp_path, (3,))
    disks.by_hand()
    rotten, missing, good = disks.places()
    flip_a_bit(rotten)
    disks.storages._verified[os.fsencode(rotten)] = files.identity(rotten.stat())
    missing.unlink()
    assert [disks.get(), disks.get()] == [CONTENT] * 2
    assert [path.read_bytes() for path in (rotten, missing, good)] == [CONTENT] * 3


def test_a_good_copy_that_cannot_be_copied_is_no_fault_of_the_other_storage(disks: Disks, system: System) -> None:
    """SO-7: a bad sector of one disk; and nobody serves a copy that cannot be read."""
    disks.post()
    good, missing = disks.places()
    missing.unlink()

    def fail(name: str) -> None:
        if name in ("read", "pread") and system.calls[-1][1] == str(good):
            raise OSError(errno.EIO, "injected")

    system.before = fail
    with pytest.raises(Damaged):
        disks.get()
    system.before = lambda name: None
    assert disks.get() == CONTENT
    assert missing.read_bytes() == CONTENT, "its storage was not left alone"


# ---- Reading without hashes


def test_without_hashes_copies_of_one_size_are_taken_for_good(disks: Disks, system: System) -> None:
    storages = disks.process(verify=False)
    disks.by_hand()
    system.calls.clear()
    assert disks.get(storages=storages) == CONTENT
    assert not [path for name, path in system.calls if name == "pread" and path]


@pytest.mark.parametrize("damage", [shorten, empty, lengthen, delete])
def test_without_hashes_a_copy_of_another_size_is_found_all_the_same(disks: Disks, damage: Damage) -> None:
    storages = disks.process(verify=False)
    for number in (0, 1):
        paths = disks.by_hand()
        damage(paths[number])
        for _ in range(5):
            assert disks.get(storages=storages) == CONTENT
        assert [path.read_bytes() for path in paths] == [CONTENT] * 2


def test_without_hashes_a_lone_copy_is_hashed(disks: Disks) -> None:
    """There is nothing to compare its size with; least of all where its twin's storage is away."""
    storages = disks.process(verify=False)
    paths = disks.by_hand()
    lose_the_storage(paths[0])
    shorten(paths[1])
    with pytest.raises(Damaged):
        disks.get(storages=storages)


def test_without_hashes_a_copy_that_was_found_bad_is_hashed(tmp_path: Path) -> None:
    """SO-7: by whoever restored another one from it."""
    disks = Disks(tmp_path, (3,), verify=False)
    rotten, missing, good = disks.by_hand()
    assert disks.get() == CONTENT
    disks.storages._verified.clear()
    disks.storages._verified[os.fsencode(rotten)] = files.identity(rotten.stat())  # it comes first
    flip_a_bit(rotten)
    disks.storages._verified[os.fsencode(rotten)] = files.identity(rotten.stat())
    missing.unlink()
    for _ in range(6):
        assert disks.get() == CONTENT
    assert [path.read_bytes() for path in (rotten, missing, good)] == [CONTENT] * 3


def test_without_hashes_a_copy_that_could_not_be_read_is_hashed(disks: Disks) -> None:
    """SO-7: once somebody has seen it fail."""
    storages = disks.process(verify=False)
    disks.by_hand()
    found = storages.open(SHA)
    assert found is not None
    os.close(found[1].descriptor)
    flip_a_bit(Path(os.fsdecode(found[1].copy.path)))
    with open(os.devnull, "rb") as nothing:
        assert storages.content(SHA, found[1]._replace(descriptor=nothing.fileno())) is None
    for _ in range(8):
        assert disks.get(storages=storages) == CONTENT
    assert [path.read_bytes() for path in disks.places()] == [CONTENT] * 2


def test_without_hashes_a_scrub_finds_what_a_read_does_not(disks: Disks) -> None:
    storages = disks.process(verify=False)
    paths = disks.by_hand()
    flip_a_bit(paths[0])
    assert disks.get(storages=storages) is not None
    assert [(found.what, found.restored) for found in storages.scrub()] == [("damaged", True), ("ok", False)]
    assert [path.read_bytes() for path in paths] == [CONTENT] * 2


# ---- Posting: SO-3, SO-4


def test_a_post_is_new_only_once(disks: Disks) -> None:
    paths = [str(path) for path in disks.places()]
    assert disks.post() == (True, paths)
    assert disks.post() == (False, paths)
    assert disks.storages.stored(SHA) == paths
    assert disks.files() == disks.places()


@pytest.mark.parametrize("damage", MENDED)
def test_a_post_restores_what_is_wrong_with_the_other_copy(disks: Disks, damage: Damage) -> None:
    """SO-3, SO-7: 200 lists the copies that are good, and does so after they are."""
    paths = disks.by_hand()
    damage(paths[0])
    with bound_by_permissions():
        assert disks.post() == (False, [str(path) for path in paths])
        assert [path.read_bytes() for path in paths] == [CONTENT] * 2


def test_a_post_lists_no_copy_that_is_not_good(disks: Disks) -> None:
    """SO-3."""
    paths = disks.by_hand()
    folder(paths[0])
    assert disks.storages.stored(SHA) == [str(paths[1])]
    assert disks.post() == (False, [str(paths[1])])


def test_an_upload_that_is_left_was_never_there(disks: Disks, tmp_path: Path) -> None:
    """SO-4."""
    for size in (0, 10, 3_000_000):
        with contextlib.suppress(KeyboardInterrupt), disks.storages.create(size) as incoming:
            incoming.write(bytes(size))
            raise KeyboardInterrupt
    assert disks.files() == []
    assert opened_below(tmp_path) == []


def test_blocks_of_any_size_are_hashed_in_their_order(disks: Disks) -> None:
    blocks = [bytes([number]) * (number * 9_973 % 300_000) for number in range(60)]
    content = b"".join(blocks)
    with disks.storages.create(len(content)) as incoming:
        for block in blocks:
            incoming.write(block)
        assert incoming.sha256() == sha_of(content)
        incoming.commit(sha_of(content))
    assert [path.read_bytes() == content for path in disks.places(0, sha_of(content))] == [True, True]


def test_the_hash_may_lag_behind_by_little(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """SO-4: memory does not grow with the file, however slow the hash."""
    free, waiting = threading.Event(), threading.Event()
    updated: list[int] = []

    class Slow:
        def update(self, data: bytes) -> None:
            if updated:
                free.wait(10)
            updated.append(len(data))

        def hexdigest(self) -> str:
            return SHA

    monkeypatch.setattr(replicas, "hashlib", type("hashlib", (), {"sha256": Slow}))
    written = itertools.count()

    def write() -> None:
        with disks.storages.create(0) as incoming:
            for _ in range(50):
                incoming.write(b"x")
                next(written)
            waiting.set()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(write)
        went_on = waiting.wait(0.1)
        ahead = next(written)
        free.set()
        done.result(10)
    assert not went_on, "without the hash"
    assert ahead <= replicas.HASHED_AHEAD + 2
    assert updated == [1] * 50


def test_no_step_begins_before_what_it_builds_on_is_on_the_disk(disks: Disks, system: System) -> None:
    """SO-4: 201 when every copy is."""
    disks.post()
    steps = [(name, path) for name, path in system.calls if name in ("fsync", "mkdir", "rename")]
    uploads = [path for name, path in steps if name == "fsync" and "/.uploads/" in path]
    assert len(uploads) == 2
    assert max(steps.index(("fsync", path)) for path in uploads) < steps.index(("rename", str(disks.places()[0])))
    for path in disks.places():
        for above in (path.parents[2], path.parents[1], path.parent):
            made = steps.index(("mkdir", str(above)))
            assert steps[made + 1] == ("fsync", str(above.parent))
        moved = steps.index(("rename", str(path)))
        assert steps[moved + 1] == ("fsync", str(path.parent))


def each_call(make: Callable[[], BaseException], folder: Path, system: System) -> Iterator[Disks]:
    """A pair, again and again, each time with a fault at one system call later, until there is none left."""
    for number in itertools.count(1):
        system.before = lambda name: None
        disks = Disks(folder / f"{number}")
        system.before = nth = Nth(number, make())
        yield disks
        if not nth.happened:
            assert number > 30, "these were not all system calls"
            return


def assert_whole(disks: Disks, found: Optional[bytes]) -> None:
    """What is there is right, and is all there is."""
    paths = [path for path in disks.places() if path.exists()]
    assert disks.files() == paths
    assert bool(paths) == (found is not None)
    assert [path.read_bytes() for path in paths] == [CONTENT] * len(paths)


def test_killed_at_any_system_call(tmp_path: Path, system: System) -> None:
    """Invariant (SO-4): a post that was killed has left nothing or whole copies, one or both; and whoever reads, posts
    or scrubs next completes them."""
    seen: Counter[tuple[int, Optional[bytes]]] = Counter()
    acts = itertools.cycle(["read", "post", "scrub"])
    for disks in each_call(Dead, tmp_path, system):
        with contextlib.suppress(Dead):
            disks.post()
        system.before = lambda name: None
        system.bury()
        there = [path.read_bytes() for path in disks.places() if path.exists()]
        assert there in ([], [CONTENT], [CONTENT, CONTENT])
        survivor = disks.process()
        survivor.recover()
        if there:
            act = next(acts)
            if act == "read":
                assert disks.get(storages=survivor) == CONTENT
            elif act == "post":
                assert disks.post(storages=survivor) == (False, [str(path) for path in disks.places()])
            else:
                assert all(found.what == "ok" or found.restored for found in survivor.scrub())
            assert_whole(disks, CONTENT)
            assert len(disks.files()) == 2
        else:
            assert disks.get(storages=survivor) is None
            assert_whole(disks, None)
            assert disks.post(storages=survivor)[0]
        assert disks.get() == CONTENT
        assert_whole(disks, CONTENT)
        seen[len(there), CONTENT if there else None] += 1
    assert set(seen) == {(0, None), (1, CONTENT), (2, CONTENT)}, "no kill came early enough, or late enough"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_error_of_any_system_call(tmp_path: Path, system: System, number: int) -> None:
    """Invariant (SO-4): a post that fails leaves no trace, and one that succeeds has stored both copies; all
    descriptors are closed."""
    outcomes = set()
    for disks in each_call(lambda: OSError(number, "injected"), tmp_path, system):
        error: Optional[OSError] = None
        try:
            assert disks.post() == (True, [str(path) for path in disks.places()])
        except OSError as failed:
            error = failed
        system.before = lambda name: None
        assert_whole(disks, None if error else CONTENT)
        assert len(disks.files()) in (0, 2)
        assert opened_below(tmp_path) == []
        assert disks.post()[0] == (error is not None)
        assert_whole(disks, CONTENT)
        outcomes.add(error and error.errno)
    assert outcomes == {None, number, errno.ENOSPC}


@pytest.mark.parametrize("damage", [delete, shorten])
def test_an_error_of_any_system_call_of_a_reader(tmp_path: Path, system: System, damage: Damage) -> None:
    """Invariant (SO-7): it gets the content, from whichever copy, or hears that there is none that can be read; no
    descriptor is left open, and no unfinished file."""
    outcomes = set()
    for number in itertools.count(1):
        system.before = lambda name: None
        disks = Disks(tmp_path / f"{number}")
        damage(disks.by_hand()[number % 2])
        system.before = nth = Nth(number, OSError(errno.EIO, "injected"))
        try:
            found = disks.storages.open(SHA)
            system.before = lambda name: None
            outcomes.add(None if found is None else taken(found[1]))
        except Damaged:
            system.before = lambda name: None
            outcomes.add(b"damaged")
        assert opened_below(tmp_path) == []
        assert set(disks.files()) <= set(disks.places())
        if not nth.happened:
            break
        assert disks.get(storages=disks.process()) == CONTENT
    assert number > 25
    assert CONTENT in outcomes
    assert outcomes <= {CONTENT, b"damaged", None}


def posted_elsewhere(disks: Disks) -> None:
    disks.post(storages=disks.process())


def read_elsewhere(disks: Disks) -> None:
    assert disks.get(storages=disks.process()) in (None, CONTENT)


def scrubbed_elsewhere(disks: Disks) -> None:
    assert all(found.what in ("ok", "missing") for found in disks.process().scrub())


def started_elsewhere(disks: Disks) -> None:
    disks.process().recover()


@pytest.mark.parametrize("meanwhile", [posted_elsewhere, read_elsewhere, scrubbed_elsewhere, started_elsewhere])
def test_what_another_process_does_between_two_calls_of_a_post(
    meanwhile: Callable[[Disks], None], tmp_path: Path, system: System
) -> None:
    """Invariant (SO-4): both copies are there at the end, whole, and nothing else; a living upload is no leftover."""
    created = set()
    for number in itertools.count(1):
        system.before = lambda name: None
        disks = Disks(tmp_path / f"{number}")
        between = Between(system, number, lambda disks=disks: meanwhile(disks))  # type: ignore[misc]
        created.add(disks.post()[0])
        assert_whole(disks, CONTENT)
        assert len(disks.files()) == 2
        if not between.happened:
            assert number > 30, "these were not all system calls"
            break
    assert created == ({True, False} if meanwhile is posted_elsewhere else {True})


def test_a_post_that_fails_takes_nothing_back_from_another_process(disks: Disks, system: System) -> None:
    """SO-4: the copy that it would remove is not its own any more."""
    other = disks.process()
    with other.create(len(CONTENT)) as theirs:
        theirs.write(CONTENT)

        def fail(name: str) -> None:
            if system.calls[-1] == ("rename", str(disks.places()[1])):
                system.before = lambda name: None
                for path in disks.places():
                    path.unlink(missing_ok=True)  # so that the other one does not just find it
                assert theirs.commit(SHA)[0]
                raise OSError(errno.ENOSPC, "injected")

        system.before = fail
        with pytest.raises(OSError, match="injected"):
            disks.post()
    assert [path.read_bytes() for path in disks.places()] == [CONTENT] * 2


def test_who_reads_while_a_post_fails_finds_nothing(disks: Disks, system: System) -> None:
    """SO-4: what never was is not damaged. The first copy is there, and gone when its turn comes."""
    reading, found = threading.Event(), list[object]()

    def read() -> None:
        reading.set()
        try:
            found.append(disks.get())
        except Damaged:
            found.append("damaged")

    reader = threading.Thread(target=read)

    def fail(name: str) -> None:
        if system.calls[-1] == ("rename", str(disks.places()[1])):
            reader.start()
            until(lambda: bool(locks._keys[SHA].waiting))
            raise OSError(errno.ENOSPC, "injected")

    locks = kcistorage.LockTable()
    disks.storages._holding = lambda sha: locks.holding(sha, 10.0, (503, "busy", ""))
    system.before = fail
    with pytest.raises(OSError, match="injected"):
        disks.post()
    reader.join(10)
    assert found == [None]


def test_two_posts_at_once_in_one_process(disks: Disks) -> None:
    """SO-4: one stores, the others find it."""
    barrier = threading.Barrier(6)

    def post(_: int) -> bool:
        with disks.storages.create(len(CONTENT)) as incoming:
            incoming.write(CONTENT)
            barrier.wait(10)
            return incoming.commit(SHA)[0]

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(post, range(6))) == [False] * 5 + [True]
    assert disks.files() == disks.places()


# ---- Storages that fail (SO-4, SO-6)


class Broken:
    """Fails at calls of some name below a folder."""

    def __init__(self, system: System, call: str, below: Path, number: int = errno.ENOSPC) -> None:
        self._system, self._call, self._below, self._number = system, call, f"{below}/", number
        system.before = self

    def __call__(self, name: str) -> None:
        if name == self._call and self._system.calls[-1][1].startswith(self._below):
            raise OSError(self._number, "injected")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ENOENT])
@pytest.mark.parametrize("which", [0, 1])
def test_a_pair_on_which_nothing_can_be_begun_is_passed_by(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch, number: int, which: int
) -> None:
    """SO-6: each time another pair takes it, and the storage that failed is told."""
    disks = Disks(tmp_path, (2, 2))
    monkeypatch.setattr(random, "random", lambda: 0.0)  # chance is for the first pair
    bad = disks.pairs[0][which]
    Broken(system, "open", bad / ".uploads", number)
    for each in range(8):
        created, paths = disks.post(b"%d" % each)
        assert created
        assert paths == [str(path) for path in disks.places(1, sha_of(b"%d" % each))]
    assert {path.relative_to(tmp_path).parts[0] for path in disks.files()} == {"2a", "2b"}
    assert disks.events("storage-failed") == [{"storage": str(bad), "error": os.strerror(number)}] * 8


def test_without_another_pair_there_is_no_room(disks: Disks, system: System) -> None:
    """SO-3: known at the end, so that a content that is wrong is told first."""
    Broken(system, "open", disks.pairs[0][1] / ".uploads", errno.EROFS)
    with disks.storages.create(3) as incoming:
        incoming.write(b"foo")
        assert incoming.sha256() == sha_of(b"foo")
        with pytest.raises(OSError, match="No space") as refused:
            incoming.commit(sha_of(b"foo"))
        assert refused.value.errno == errno.ENOSPC
    assert disks.files() == []


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "mkdir"])
def test_one_storage_of_a_pair_fails_later(disks: Disks, tmp_path: Path, system: System, call: str, which: int) -> None:
    """SO-4: then neither has a copy."""
    below = disks.pairs[0][which] / (".uploads" if call in ("write", "fsync") else SHA[:2].upper())
    (below if call == "mkdir" else disks.pairs[0][which]).mkdir(exist_ok=True)
    Broken(system, call, below)
    with pytest.raises(OSError, match="injected"):
        disks.post()
    system.before = lambda name: None
    assert disks.files() == []
    assert opened_below(tmp_path) == []
    assert disks.get() is None
    assert disks.post()[0]


def test_a_storage_that_is_gone(tmp_path: Path) -> None:
    """SO-6, SO-8: no room on its pair; its twin is read."""
    disks = Disks(tmp_path, (2, 2))
    disks.by_hand(0)
    shutil.rmtree(disks.pairs[0][1])
    assert [disks.storages.is_available(str(storage)) for storage in disks.pairs[0]] == [True, False]
    assert disks.get() == CONTENT
    assert disks.storages.free(disks.storages.pairs[0]) == 0
    assert disks.post(OTHER) == (True, [str(path) for path in disks.places(1, sha_of(OTHER))])
    assert not disks.pairs[0][1].exists(), "it is not for us to make it"


def test_what_cannot_be_restored_is_tried_again_after_a_while(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """SO-7: a disk that is full must not cost every read a try, and a hash of what is wrong there."""
    paths = disks.by_hand()
    shorten(paths[1])
    with monkeypatch.context() as patch:
        system = System()
        for part in (replicas, files):
            patch.setattr(part, "os", system)
        patch.setattr(files, "fcntl", system)
        Broken(system, "write", disks.pairs[0][1])
        assert disks.get() == CONTENT
        assert len(disks.events("restore-failed")) == 1
        system.calls.clear()
        assert disks.get() == CONTENT
        assert not [call for call in system.calls if call[0] in ("pread", "read", "write")]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + replicas.RESTING_SECONDS + 1)
    assert disks.get() == CONTENT
    assert paths[1].read_bytes() == CONTENT


def test_leftovers_of_the_dead_are_removed_and_the_living_go_on(disks: Disks) -> None:
    """SO-4."""
    with disks.storages.create(len(CONTENT)) as incoming:
        incoming.write(CONTENT)
        for storage in disks.pairs[0]:
            (storage / ".uploads" / "dead").write_bytes(b"half")
        disks.process().recover()
        assert not [path for path in disks.files() if path.name == "dead"]
        assert incoming.commit(SHA)[0]
    assert_whole(disks, CONTENT)


def test_a_storage_that_is_read_only_keeps_nobody_from_starting(disks: Disks, system: System) -> None:
    Broken(system, "mkdir", disks.pairs[0][0], errno.EROFS)
    disks.storages.recover()
    assert disks.events("storage-failed") == [{"storage": str(disks.pairs[0][0]), "error": os.strerror(errno.EROFS)}]
    assert (disks.pairs[0][1] / ".uploads").is_dir(), "the others come after it"


# ---- Large objects are restored later


class Held:
    """Holds up whoever reads a block, until it is let go."""

    def __init__(self, system: System, call: str = "read") -> None:
        self.reached, self.go_on, self._call = threading.Event(), threading.Event(), call
        system.before = self

    def __call__(self, name: str) -> None:
        if name == self._call:
            self.reached.set()
            assert self.go_on.wait(10)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "AT_ONCE", 10)


@pytest.mark.usefixtures("large")
def test_readers_of_a_large_object_do_not_wait_for_its_other_copy(
    disks: Disks, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SO-7."""
    disks.post()
    disks.places()[0].unlink()
    held, mended, mend = Held(system), list[str](), disks.storages._mend_now

    def counted(number: int, sha: str) -> None:
        mended.append(sha)
        mend(number, sha)

    monkeypatch.setattr(disks.storages, "_mend_now", counted)
    assert disks.get() == CONTENT
    assert held.reached.wait(10), "nobody restores it"
    for _ in range(3):
        assert disks.get() == CONTENT
    assert not disks.places()[0].exists()
    held.go_on.set()
    until(lambda: bool(disks.events("restored")))
    assert [path.read_bytes() for path in disks.places()] == [CONTENT] * 2
    until(lambda: not disks.storages._mending)
    disks.storages.close()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("mender")])
    assert disks.events("restored") == [{"path": str(disks.places()[0]), "was": "missing"}]
    assert mended == [SHA], "once"


@pytest.mark.usefixtures("large")
def test_the_end_of_a_process_waits_for_no_large_object(disks: Disks, system: System) -> None:
    """SIGTERM: hours of copying are not for the end; the next process goes on."""
    for content in (CONTENT, OTHER):
        disks.post(content)
        disks.places(0, sha_of(content))[0].unlink()
    held = Held(system)
    for content in (CONTENT, OTHER):
        assert disks.get(sha_of(content)) == content
    assert held.reached.wait(10)
    disks.storages.close()
    held.go_on.set()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("mender")])
    system.before = lambda name: None
    assert disks.events("restored") == []
    assert [path.name for path in disks.files()] == [
        disks.places(0, sha)[1].name for sha in sorted((SHA, sha_of(OTHER)))
    ]
    assert disks.get() == CONTENT, "it still reads"


# ---- Scrubbing: SO-7


@pytest.mark.parametrize("damage", [*MENDED, *NOT_MENDED])
def test_a_scrub_finds_and_restores(disks: Disks, damage: Damage) -> None:
    """SO-7."""
    disks.post(OTHER)
    paths = disks.by_hand()
    disks.get()
    damage(paths[0])
    with bound_by_permissions():
        found = {Path(each.path): each for each in disks.storages.scrub()}
    bad = found.pop(paths[0])
    what = "unreadable" if damage is forbid else "damaged" if damage in CHANGED else "missing"
    assert (bad.what, bad.restored) == (what, damage in MENDED)
    if damage is lose_the_storage:
        lost = found.pop(disks.places(0, sha_of(OTHER))[0])
        assert (lost.what, lost.restored) == ("missing", False)
    assert {each.what for each in found.values()} == {"ok"}
    assert found[paths[1]].size == len(CONTENT)
    if damage in MENDED:
        assert [path.read_bytes() for path in paths] == [CONTENT] * 2
        assert {each.what for each in disks.storages.scrub()} == {"ok"}


def test_a_scrub_sees_what_the_file_system_does_not_tell(disks: Disks) -> None:
    """SO-7: a bit that the disk has flipped. What is remembered of the copy does not count."""
    disks.post()
    path = disks.places()[0]
    flip_a_bit(path)
    disks.storages._verified[os.fsencode(path)] = files.identity(path.stat())
    assert [(each.what, each.restored) for each in disks.storages.scrub()] == [("damaged", True), ("ok", False)]
    assert disks.get() == CONTENT


def test_a_scrub_where_nothing_is_good(disks: Disks) -> None:
    """SO-7: there is nothing to restore from, and it stays as it is, for somebody to look at."""
    paths = disks.by_hand()
    flip_a_bit(paths[0])
    shorten(paths[1])
    before = [path.read_bytes() for path in paths]
    found = list(disks.storages.scrub())
    assert [(each.what, each.restored) for each in found] == [("damaged", False)] * 2
    assert [path.read_bytes() for path in paths] == before


def test_a_scrub_goes_over_all_pairs_in_order(tmp_path: Path) -> None:
    disks = Disks(tmp_path, (2, 3, 1))
    contents = [b"%d" % number for number in range(40)]
    for content in contents:
        disks.post(content)
    found = list(disks.storages.scrub())
    assert {each.what for each in found} == {"ok"}
    assert sorted(Path(each.path) for each in found) == disks.files()
    by_pair = [
        [each.path for each in found if Path(each.path).relative_to(tmp_path).parts[0] == pair[0].name]
        for pair in disks.pairs
    ]
    assert all(paths == sorted(paths) for paths in by_pair)


def test_foreign_files_are_left_alone(disks: Disks) -> None:
    """SO-5: what is not named as an object is none."""
    (path, _) = disks.by_hand()
    name = SHA.upper()
    strangers = [
        path.parents[3] / "lost+found" / "x",
        path.parents[3] / "README",
        path.parents[2] / "notes.txt",
        path.parent / f"{name}.dat.bak",
        path.parent / f"{name[:-1]}.dat",
        path.parent / f"{name.lower()}.dat",
        path.parent / f"{sha_of(OTHER).upper()}.dat",  # in a folder of others
        path.parents[3] / SHA[:2].lower() / "aa" / "bb" / f"{name}.dat",
    ]
    for stranger in strangers:
        stranger.parent.mkdir(parents=True, exist_ok=True)
        stranger.write_bytes(b"not ours")
    found = list(disks.storages.scrub())
    assert [each.what for each in found] == ["ok", "ok"]
    assert [stranger.read_bytes() for stranger in strangers] == [b"not ours"] * len(strangers)
    assert set(disks.files()) == {*strangers, *disks.places()}


def test_a_scrub_and_a_read_take_little_memory(disks: Disks) -> None:
    """SO-4, SO-7."""
    content = bytes(24 << 20)
    disks.by_hand(0, content)[0].unlink()
    tracemalloc.start()
    try:
        found = disks.storages.open(sha_of(content))
        assert found is not None
        os.close(found[1].descriptor)
        assert len(list(disks.storages.scrub())) == 2
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 << 20
    assert [each.what for each in disks.storages.scrub()] == ["ok", "ok"]


def test_a_scrub_holds_up_nobody_but_readers_of_its_object(disks: Disks, system: System) -> None:
    disks.by_hand()
    disks.post(OTHER)
    held = Held(system, "pread")
    with ThreadPoolExecutor(1) as pool:
        scrub = pool.submit(lambda: list(disks.storages.scrub()))
        assert held.reached.wait(10)
        assert disks.get(sha_of(OTHER)) == OTHER
        held.go_on.set()
        assert {each.what for each in scrub.result(10)} == {"ok"}


# ---- Mounts: SO-8


def test_what_lies_on_another_file_system_than_the_root_is_mounted(tmp_path: Path) -> None:
    """SO-8, on a file system that every Linux has."""
    assert os.path.ismount("/proc")
    assert replicas.is_mounted("/proc")
    assert replicas.is_mounted("/proc/self")
    assert not replicas.is_mounted("/")
    (tmp_path / "link").symlink_to("/proc/self")
    assert replicas.is_mounted(str(tmp_path / "link"))
    (tmp_path / "root").symlink_to("/")
    assert not replicas.is_mounted(str(tmp_path / "root"))


def test_available_is_a_folder_that_can_be_read_on_a_disk_that_is_mounted(
    disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SO-8."""
    there, other = map(str, disks.pairs[0])
    (tmp := disks.pairs[0][0] / "file").touch()
    monkeypatch.setattr(os.path, "ismount", lambda path: path in ("/", there))
    strict = disks.process(require_mounts=True)
    assert [strict.is_available(path) for path in (there, other, str(tmp), f"{there}/no")] == [
        True,
        False,
        False,
        False,
    ]
    assert [disks.storages.is_available(path) for path in (there, other, str(tmp))] == [True, True, False]
    disks.pairs[0][1].chmod(0)
    with bound_by_permissions():
        assert not disks.storages.is_available(other)


# ---- Any sequence of calls

CONTENTS = [b"", b"a", b"bb" * 1_000, b"the fourth", bytes(100_000)]


class Model(RuleBasedStateMachine):
    """Invariant: whatever happens to single copies, the storages are a set (SO-3, SO-4, SO-7)."""

    which = st.sampled_from(CONTENTS)

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.disks = Disks(Path(self._folder.name), (2, 2, 3))
        self.stored: set[bytes] = set()

    def copies(self, content: bytes) -> list[Path]:
        """Of the pair that it is on."""
        places = [self.disks.places(pair, sha_of(content)) for pair in range(3)]
        return next((paths for paths in places if any(path.exists() for path in paths)), [])

    def good(self, content: bytes) -> list[Path]:
        return [path for path in self.copies(content) if path.is_file() and path.read_bytes() == content]

    @rule(content=which)
    def post(self, content: bytes) -> None:
        created, paths = self.disks.post(content)
        assert created == (content not in self.stored)
        self.stored.add(content)
        assert sorted(paths) == sorted(map(str, self.good(content))) == sorted(map(str, self.copies(content)))

    @rule(content=which)
    def post_something_else(self, content: bytes) -> None:
        with self.disks.storages.create(len(content)) as incoming:
            incoming.write(content[:10])

    @rule(content=which, first=st.integers(0, 2))
    def get(self, content: bytes, first: int) -> None:
        found = self.disks.storages.open(sha_of(content), first)
        assert (None if found is None else taken(found[1])) == (content if content in self.stored else None)

    @rule(content=which, damage=st.sampled_from([delete, lengthen, another_file, delete_with_folders]), data=st.data())
    def lose_one_copy(self, content: bytes, damage: Damage, data: st.DataObject) -> None:
        good = self.good(content)
        if len(good) > 1 and not (damage is another_file and not content):
            damage(good[data.draw(st.integers(0, len(good) - 1))])

    @rule()
    def scrub(self) -> None:
        found = list(self.disks.storages.scrub())
        assert all(each.restored or each.what == "ok" for each in found)
        assert {Path(each.path).name for each in found} == {f"{sha_of(content).upper()}.dat" for content in self.stored}
        assert all(self.good(content) == self.copies(content) for content in self.stored)

    @rule()
    def restart(self) -> None:
        self.disks.storages.close()
        self.disks.storages = self.disks.process()
        self.disks.storages.recover()

    @invariant()
    def nothing_is_in_the_making(self) -> None:
        assert not [path for path in self.disks.files() if path.suffix != ".dat"]

    def teardown(self) -> None:
        self.disks.storages.close()
        self._folder.cleanup()


def test_any_sequence_of_calls_does_what_a_set_would() -> None:
    few = settings(deadline=None, max_examples=12, stateful_step_count=25)
    run_state_machine_as_test(Model, settings=few)


# ---- Many at once


def test_posts_reads_and_damage_at_once(tmp_path: Path) -> None:
    """Invariant (SO-4, SO-7): once a post has returned, every read finds the content, in both processes, while copies
    are deleted behind their backs, one of each object at a time."""
    disks = Disks(tmp_path, (2, 2))
    processes, done = [disks.storages, disks.process()], threading.Event()
    contents = [b"%d" % number * 1_000 for number in range(6)]
    posted: set[int] = set()

    def post(storages: Storages) -> None:
        for number in random.sample(range(6), 6):
            disks.post(contents[number], storages)
            posted.add(number)

    def read(storages: Storages) -> int:
        count = 0
        while not done.is_set():
            for number in list(posted):
                assert disks.get(sha_of(contents[number]), storages) == contents[number]
                count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, storages) for storages in processes]
        writers = [pool.submit(post, storages) for storages in processes]
        try:
            for writer in writers:
                writer.result(20)
            until(lambda: not any(storages._mending for storages in processes))  # who saw only one copy of a post yet
            for number in range(6):
                both = [
                    disks.places(pair, sha_of(contents[number])) for pair in (0, 1)
                ]  # each process chose for itself
                paths = next(paths for paths in both if all(path.exists() for path in paths))
                paths[number % 2].unlink()
                until(paths[number % 2].exists, 10)
        finally:
            done.set()
        assert all(reader.result(20) for reader in readers)
    assert disks.events("restored")
    assert re.fullmatch("(restored)+", "".join(told.event for told in disks.told))
