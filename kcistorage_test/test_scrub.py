"""The scrub: what it finds in a local storage, and what it does not take for a finding (UP-12)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
import subprocess
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kcistorage_parts import local, names, scrub
from kcistorage_parts.scrub import Layout, Scrub, Scrubbed
from kcistorage_test.test_local import (
    KEY,
    NEW,
    OLD,
    Between,
    Dead,
    Nth,
    Storage,
    System,
    bound_by_permissions,
    dig,
    failure,
    make_socket,
)

LAYOUT = Layout(local.entity_tag, local.read_sidecar, local.sorted_names, names.is_key)


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes most of the time, and is no matter here."""
    monkeypatch.setattr("kcistorage_parts.local.os.fsync", lambda descriptor: None)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage")


def findings(storage: Storage, layout: Layout = LAYOUT, pace: Callable[[], object] = lambda: None) -> dict[str, str]:
    """What is wrong, by path."""
    found = [each for each in Scrub(str(storage.folder), layout, pace) if each.what != "ok"]
    assert len({each.path for each in found}) == len(found), "told twice"
    return {each.path: each.what for each in found}


def put(storage: Storage, key: str) -> Storage:
    """One more object."""
    one = Storage(storage.folder, key)
    one.put(OLD)
    return one


def private(storage: Storage, path: Path) -> str:
    return str(path.relative_to(storage.folder))


# ---- One storage with one fault

Finding = tuple[str, str]  # path, what


def healthy(storage: Storage) -> Optional[Finding]:
    return None


def copied_in(storage: Storage) -> Optional[Finding]:
    storage.headers.unlink()
    return None


def of_upstream(storage: Storage) -> Optional[Finding]:
    """Its sidecars name no ETag."""
    storage.headers.write_text("content-type:a/b\ntag-owner:x\n")
    return None


def pending(storage: Storage) -> Optional[Finding]:
    """A crash before the last step of a commit: readers see the true pair."""
    storage.headers.rename(storage.next)
    storage.headers.write_text('etag:"1-1"\n')
    return None


def pending_at_first(storage: Storage) -> Optional[Finding]:
    storage.headers.rename(storage.next)
    return None


def grown(storage: Storage) -> Finding:
    with storage.content.open("ab") as file:
        file.write(b"x")
    return storage.key, "size-differs"


def emptied(storage: Storage) -> Finding:
    os.truncate(storage.content, 0)
    return storage.key, "size-differs"


def edited(storage: Storage) -> Finding:
    """To the same size."""
    storage.content.write_bytes(storage.content.read_bytes().swapcase())
    os.utime(storage.content, (5, 5))
    return storage.key, "sidecar-outdated"


def of_before_1970(storage: Storage) -> Finding:
    size = storage.content.stat().st_size
    storage.headers.write_text(f'etag:"-2a-{size + 1:x}"\n')
    return storage.key, "size-differs"


def of_another_server(storage: Storage) -> Finding:
    """Whose ETags are no numbers, or look like one."""
    storage.headers.write_text('etag:"abc"\n')
    return storage.key, "sidecar-outdated"


def without_content(storage: Storage) -> Finding:
    storage.content.unlink()
    return private(storage, storage.headers), "sidecar-without-content"


def leftover_beside(storage: Storage) -> Finding:
    """A crash in the middle of an overwrite."""
    storage.next.write_text('content-type:a/new\netag:"1-f"\n')
    return private(storage, storage.next), "leftover"


def leftover_alone(storage: Storage) -> Finding:
    """A crash in a first upload."""
    storage.content.unlink()
    storage.headers.unlink()
    storage.next.touch()
    return private(storage, storage.next), "leftover"


def dangling(storage: Storage) -> Finding:
    storage.content.unlink()
    storage.content.symlink_to("nowhere")
    return storage.key, "unreadable"


def linked_to_itself(storage: Storage) -> Finding:
    storage.content.unlink()
    storage.content.symlink_to(storage.content.name)
    return storage.key, "unreadable"


def on_a_bad_disk(storage: Storage) -> Finding:
    """Linux answers with EIO to who reads the first byte of a process's memory."""
    storage.content.unlink()
    storage.content.symlink_to("/proc/self/mem")
    return storage.key, "unreadable"


def a_fifo(storage: Storage) -> Finding:
    storage.content.unlink()
    os.mkfifo(storage.content)
    return storage.key, "not-a-key"


def a_socket(storage: Storage) -> Finding:
    storage.content.unlink()
    make_socket(storage.content)
    return storage.key, "not-a-key"


def a_device(storage: Storage) -> Finding:
    storage.content.unlink()
    storage.content.symlink_to("/dev/zero")
    return storage.key, "not-a-key"


def a_link_to_a_folder(storage: Storage) -> Finding:
    """Its objects can be downloaded, but no listing names them: their sidecars belong to something."""
    folder = storage.content.parent
    shutil.move(folder, storage.folder.parent / f"elsewhere-{folder.name}")
    folder.symlink_to(storage.folder.parent / f"elsewhere-{folder.name}")
    return private(storage, folder) + "/", "not-a-key"


HARMLESS = [healthy, copied_in, of_upstream, pending, pending_at_first]
FAULTS = [
    grown,
    emptied,
    edited,
    of_before_1970,
    of_another_server,
    without_content,
    leftover_beside,
    leftover_alone,
    dangling,
    linked_to_itself,
    on_a_bad_disk,
    a_fifo,
    a_socket,
    a_device,
]


@pytest.mark.parametrize("fault", [*HARMLESS, *FAULTS, a_link_to_a_folder])
def test_each_fault_is_found_and_nothing_else(storage: Storage, fault: Callable[[Storage], Optional[Finding]]) -> None:
    storage.put(OLD)
    finding = fault(storage)
    assert findings(storage) == dict([finding] if finding else [])


@settings(max_examples=40, deadline=None)
@given(faults=st.lists(st.sampled_from([*HARMLESS, *FAULTS]), max_size=8))
def test_any_faults_together(
    tmp_path_factory: pytest.TempPathFactory, faults: list[Callable[[Storage], Optional[Finding]]]
) -> None:
    """Invariant: what is found is what each fault alone is found as, however few names are sorted in memory."""
    folder, expected = tmp_path_factory.mktemp("faults"), dict[str, str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "SORTED_IN_MEMORY", 2)
        for number, fault in enumerate(faults):
            storage = Storage(folder, f"{'ab'[number % 2]}/{number}/x")
            storage.put(OLD)
            expected.update([found] if (found := fault(storage)) else [])
        assert findings(Storage(folder)) == expected


def test_sizes_and_progress(storage: Storage) -> None:
    """Each object is told, the largest number of bytes that a progress can count is what was read."""
    storage.put(OLD)
    Storage(storage.folder, "z/empty").put(OLD._replace(content=b""))
    large = Storage(storage.folder, "a/large")
    large.put(OLD._replace(content=b"x" * (3 * scrub.BLOCK + 1)))
    (storage.uploads / "dead").write_bytes(b"half")
    assert list(Scrub(str(storage.folder), LAYOUT)) == [
        Scrubbed("a/large", "ok", 3 * scrub.BLOCK + 1),
        Scrubbed(KEY, "ok", len(OLD.content)),
        Scrubbed("z/empty", "ok", 0),
        Scrubbed(".metadata/uploads/dead", "leftover", 4),
    ]


FIELDS = ("ino", "mode", "size", "mtime_ns", "ctime_ns", "nlink")


def everything(folder: Path) -> dict[str, tuple[int, ...]]:
    """All names, and what of each would change with it."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): tuple(getattr(path.lstat(), f"st_{name}") for name in FIELDS) for path in paths}


def test_it_changes_nothing(storage: Storage) -> None:
    for number, fault in enumerate([*HARMLESS, *FAULTS]):
        one = Storage(storage.folder, f"a/{number}/x")
        one.put(OLD)
        fault(one)
    (storage.uploads / "dead").touch()
    before = everything(storage.folder)
    assert len(findings(storage)) == len(FAULTS) + 1
    assert everything(storage.folder) == before


# ---- Names


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"\xff", r"\xff"),
        (b"caf\xe9/x", r"caf\xe9/x"),
        (b"a\nb\x1b[2J", r"a\nb\x1b[2J"),
        (b"del\x7f", r"del\x7f"),
        ("\u0085".encode(), r"\x85"),
        ("a\u202eb".encode(), None),
        ("ü".encode(), None),
        (b".metadata-2/x", None),
        (b"/".join([b"d" * 200] * 5), None),
        (b"/".join([b"d" * 200] * 6), "/".join(["d" * 200] * 6)),
    ],
)
def test_a_name_that_no_key_can_have(storage: Storage, name: bytes, told: Optional[str]) -> None:
    path = os.fsencode(storage.folder) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.mknod(path)
    assert findings(storage) == ({told: "not-a-key"} if told else {})


def test_a_path_is_told_in_one_line(storage: Storage) -> None:
    """Even one that is a key, but that would turn a terminal's line around."""
    (storage.folder / "a\u202eb").touch()
    assert [each.path for each in Scrub(str(storage.folder), LAYOUT)] == [r"a\u202eb"]


def test_private_files_of_somebody_else(storage: Storage) -> None:
    digest = hashlib.sha512(KEY.encode()).hexdigest()
    storage.put(OLD)
    strange = ["x", "x.headers", f"{digest}.headers.bak", f"{digest}x", "folder/"]
    for name in strange:
        path = storage.private / name
        path.mkdir() if name.endswith("/") else path.touch()
    (storage.uploads / "folder").mkdir()
    expected = {f".metadata/{name}": "not-a-key" for name in strange}
    assert findings(storage) == {**expected, ".metadata/uploads/folder/": "leftover"}


def test_folders_deeper_than_any_key_and_than_python_can_recurse(storage: Storage) -> None:
    storage.put(OLD)
    dig(storage.folder, "dddd", 1_100)
    storage.headers.rename(storage.headers.with_name("f" * 128 + ".headers"))
    found = findings(storage)
    subprocess.run(["rm", "-rf", storage.folder], check=True)  # Python's rmtree would recurse
    told = found.pop(f".metadata/{'f' * 128}.headers")
    assert told == "sidecar-without-content", "what is too deep hides no keys"
    assert [(path[:10], what) for path, what in found.items()] == [("dddd/dddd/", "not-a-key")]


# ---- What cannot be read


def test_a_storage_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """And is not made, as a server would: a misspelt path must not be a storage in the best of health."""
    with pytest.raises(FileNotFoundError):
        list(Scrub(str(tmp_path / "no"), LAYOUT))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_no_server_ever_used(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert list(Scrub(str(tmp_path), LAYOUT)) == [Scrubbed("x", "ok", 0)]


def test_what_we_may_not_read(storage: Storage) -> None:
    other = Storage(storage.folder, "other")
    for each in (storage, other):
        each.put(OLD)
    storage.content.chmod(0)
    other.headers.chmod(0)
    with bound_by_permissions():
        assert findings(storage) == {KEY: "unreadable", private(other, other.headers): "unreadable"}


def test_a_folder_that_we_may_not_list(storage: Storage) -> None:
    """Sidecars of objects in it are not without content: we do not know."""
    storage.put(OLD)
    without_content(put(storage, "other"))
    (storage.folder / "lab").chmod(0)
    with bound_by_permissions():
        assert findings(storage) == {"lab/": "unreadable"}
    (storage.folder / "lab").chmod(0o700)
    assert list(findings(storage).values()) == ["sidecar-without-content"]


def test_what_file_systems_keep_for_root(storage: Storage) -> None:
    """No server could have stored anything there."""
    finding = without_content(put(storage, "other"))
    (storage.folder / "lost+found").mkdir(mode=0)
    with bound_by_permissions():
        assert findings(storage) == dict([finding])
    (storage.folder / "lost+found").chmod(0o700)
    (storage.folder / "lost+found/#1234").touch()
    assert len(list(Scrub(str(storage.folder), LAYOUT))) == 2, "it is read where it can be"


@pytest.mark.parametrize("folder", ["uploads", ""])
def test_a_private_folder_that_we_may_not_list(storage: Storage, folder: str) -> None:
    put(storage, "x")
    (storage.private / folder).chmod(0o300)
    with bound_by_permissions():
        assert findings(storage) == {f".metadata/{folder}/".replace("//", "/"): "unreadable"}
    (storage.private / folder).chmod(0o700)


class Instead:
    """`os` with some other functions."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def test_an_error_after_some_blocks(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte is read."""
    storage.put(OLD._replace(content=b"x" * (3 * scrub.BLOCK)))
    for number in range(1, 4):
        reads = itertools.count(1)

        def readv(
            descriptor: int, buffers: Iterable[bytearray], reads: Iterator[int] = reads, number: int = number
        ) -> int:
            if next(reads) % 3 == number % 3:
                raise OSError(errno.EIO, "injected")
            return os.readv(descriptor, list(buffers))

        with monkeypatch.context() as patch:
            patch.setattr(scrub, "os", Instead(readv=readv))
            assert findings(storage) == {KEY: "unreadable"}
    assert findings(storage) == {}


def test_an_end_before_the_end(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put(OLD)
    monkeypatch.setattr(scrub, "os", Instead(readv=lambda descriptor, buffers: 0))
    assert findings(storage) == {KEY: "unreadable"}


def test_the_disk_is_read_and_the_page_cache_left_as_it_was(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory says nothing of the disk; and a terabyte must not push out what is asked for."""
    storage.put(OLD._replace(content=b"x" * (2 * scrub.BLOCK + 5)))
    calls: list[object] = []

    def advise(descriptor: int, start: int, size: int, advice: int) -> None:
        assert (start, advice) == (0, os.POSIX_FADV_DONTNEED)
        calls.append(size)
        os.posix_fadvise(descriptor, start, size, advice)

    def readv(descriptor: int, buffers: Iterable[bytearray]) -> int:
        calls.append("read")
        return os.readv(descriptor, list(buffers))

    monkeypatch.setattr(scrub, "os", Instead(posix_fadvise=advise, readv=readv))
    assert findings(storage) == {}
    block = scrub.BLOCK
    assert calls == [0, "read", block, "read", 2 * block, "read", 2 * block + 5]


class Calls(System):
    """The scrub's own system calls; those of drivers go past it."""

    CALLS = System.CALLS | {"lstat", "posix_fadvise", "readv"}


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    system = Calls()
    monkeypatch.setattr(scrub, "os", system)
    monkeypatch.setattr(scrub, "fcntl", system)
    return system


def test_descriptors_are_closed_whatever_fails(storage: Storage, system: System) -> None:
    storage.put(OLD)
    leftover_beside(storage)
    (storage.uploads / "dead").touch()
    before = len(os.listdir("/proc/self/fd"))
    for number in itertools.count(1):
        system.before = nth = Nth(number, OSError(errno.EIO, "injected"))
        error = failure(lambda: list(Scrub(str(storage.folder), LAYOUT, lambda: system.before("pace"))))
        if error is not None:
            assert error is nth.error
            error.__traceback__ = None  # in which folders are still being listed
        assert len(os.listdir("/proc/self/fd")) == before
        if not nth.happened:
            assert number > 30, "these were not all system calls"
            break


# ---- What happens meanwhile is no finding (beside a running server)

HELD: list[int] = []  # open files of processes that live on


def lock(path: Path, text: str) -> None:
    """As a living process does that is at work on this key."""
    HELD.append(os.open(path, os.O_RDWR | os.O_CREAT))
    fcntl.flock(HELD[-1], fcntl.LOCK_EX)
    os.write(HELD[-1], text.encode())


def an_overwrite(storage: Storage) -> None:
    storage.put(NEW)


def an_overwrite_and_a_crash(storage: Storage) -> None:
    before = storage.headers.read_text()
    storage.put(NEW)
    storage.headers.rename(storage.next)
    storage.headers.write_text(before)


def an_upload(storage: Storage) -> None:
    for key in ("a", "lab/job/a", "lab/job/z", "z/z"):
        put(storage, key)


def an_upload_that_goes_on(storage: Storage) -> None:
    lock(storage.uploads / "0123", "half")


def a_commit_that_goes_on(storage: Storage) -> None:
    """Its sidecar is written, its content not yet in place."""
    lock(storage.next, 'etag:"1-1"\n')
    lock(Storage(storage.folder, "new").next, 'etag:"1-1"\n')


def a_deletion(storage: Storage) -> None:
    assert storage.driver.delete(KEY, local.entity_tag(storage.content.stat()))


def a_deletion_that_goes_on(storage: Storage) -> None:
    lock(storage.next, "")
    storage.content.unlink()


def a_deletion_and_an_upload_below(storage: Storage) -> None:
    """What was a file is a folder now."""
    a_deletion(storage)
    put(storage, f"{KEY}/y")


def a_folder_by_hand(storage: Storage) -> None:
    shutil.rmtree(storage.content.parent)
    shutil.rmtree(storage.private)


MEANWHILE = [
    an_overwrite,
    an_overwrite_and_a_crash,
    an_upload,
    an_upload_that_goes_on,
    a_commit_that_goes_on,
    a_deletion,
    a_deletion_that_goes_on,
    a_deletion_and_an_upload_below,
    a_folder_by_hand,
]


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_what_happens_at_any_moment_is_no_finding(
    meanwhile: Callable[[Storage], None], tmp_path: Path, system: System
) -> None:
    for number in itertools.count(1):
        system.before = lambda name: None
        storage = Storage(tmp_path / f"{number}")
        storage.put(OLD)
        put(storage, "lab/job/other")
        between = Between(system, number, partial(meanwhile, storage))
        found = findings(storage, pace=lambda: system.before("pace"))
        while HELD:
            os.close(HELD.pop())
        assert found == {}
        if not between.happened:
            assert number > 30, "these were not all system calls"
            break


def once(act: Callable[[], object]) -> Layout:
    """Something is done when the first sidecar is read."""
    acts = [act]

    def lines(path: bytes) -> Mapping[str, str]:
        if acts:
            acts.pop()()
        return local.read_sidecar(path)

    return LAYOUT._replace(lines=lines)


def test_an_upload_that_was_not_yet_locked(storage: Storage) -> None:
    """Between the birth of a file and its lock there is a moment."""
    storage.put(OLD)
    (storage.uploads / "0123").touch()
    assert findings(storage, once(lambda: lock(storage.uploads / "0123", ""))) == {}
    os.close(HELD.pop())
    assert findings(storage, once((storage.uploads / "4567").touch)) == {".metadata/uploads/0123": "leftover"}


def test_what_may_be_locked_by_somebody_else_is_no_leftover(storage: Storage) -> None:
    """Another user's file, which we cannot open."""
    storage.put(OLD)
    leftover_beside(storage)
    (storage.uploads / "0123").touch()
    for path in (storage.next, storage.uploads / "0123"):
        path.chmod(0)
    with bound_by_permissions():
        assert findings(storage) == {}
    assert len(findings(storage)) == 2


@pytest.mark.parametrize("missed", [1, 2, 3])
def test_a_listing_that_misses_a_name(storage: Storage, monkeypatch: pytest.MonkeyPatch, missed: int) -> None:
    """As POSIX lets it with one that is being overwritten: that is no proof that the object is gone."""
    storage.put(OLD)
    listings = itertools.count(1)

    def scandir(folder: bytes) -> contextlib.AbstractContextManager[Iterator[os.DirEntry[bytes]]]:
        if folder.endswith(b"lab/job/") and next(listings) == missed:
            return contextlib.nullcontext(iter(()))
        return os.scandir(folder)

    monkeypatch.setattr(scrub, "os", Instead(scandir=scandir))
    assert findings(storage) == {}
    assert next(listings) > 2


def test_what_somebody_keeps_changing_by_hand_is_no_finding(storage: Storage) -> None:
    storage.put(OLD)
    grown(storage)
    sizes = itertools.count(100)

    def change(path: bytes) -> Mapping[str, str]:
        os.truncate(storage.content, next(sizes))
        return local.read_sidecar(path)

    assert findings(storage, LAYOUT._replace(lines=change)) == {}


def test_a_file_that_grows_for_ever_has_an_end(storage: Storage) -> None:
    (storage.folder / "log").write_bytes(b"x")

    def grow() -> None:
        with (storage.folder / "log").open("ab") as file:
            file.write(b"x" * 2 * scrub.BLOCK)

    assert [each.what for each in Scrub(str(storage.folder), LAYOUT, grow)] == ["ok"]


# ---- How it goes about it


def test_it_rests_at_each_step_and_ends_when_it_shall(storage: Storage) -> None:
    storage.put(OLD._replace(content=b"x" * (2 * scrub.BLOCK)))
    leftover_alone(put(storage, "z"))
    never = Nth(1_000_000, Dead())
    assert len(list(Scrub(str(storage.folder), LAYOUT, partial(never, "pace")))) == 2
    assert never.count > 12
    for number in range(1, never.count + 1):
        with pytest.raises(Dead):
            list(Scrub(str(storage.folder), LAYOUT, partial(Nth(number, Dead()), "pace")))


def test_any_number_of_objects_in_bounded_memory(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of objects, of sidecars, and of findings."""
    monkeypatch.setattr(local, "SORTED_IN_MEMORY", 1_000)
    monkeypatch.setattr(scrub, "BLOCK", 4_096)
    for number in range(4_000):
        key = f"{number}"
        os.mknod(storage.private / f"{hashlib.sha512(key.encode()).hexdigest()}.headers")
        if number % 4 == 0:
            os.mknod(storage.folder / key)
    tracemalloc.start()
    try:
        count = Counter(each.what for each in Scrub(str(storage.folder), LAYOUT))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == {"ok": 1_000, "sidecar-without-content": 3_000}
    assert peak < 750_000, "a list of all sidecars takes as much again"
