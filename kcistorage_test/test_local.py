"""What is special to local files: their layout, every state that a crash leaves, other processes, other people's files.

`test_drivers.py` holds what all drivers have in common.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kcistorage_parts import files, local
from kcistorage_parts.local import LocalDriver, SmallObjects, Stored, sorted_names
from kcistorage_test.conftest import Running, token

KEY = "lab/job/x.bin"


class Version(NamedTuple):
    """An object as a reader sees it; its sidecar, besides the ETag."""

    content: bytes
    content_type: str
    owner: str


OLD = Version(b"old content", "a/old", "old@example.org")
NEW = Version(b"the new content", "a/new", "new@example.org")
NEWER = Version(b"newer", "a/newer", "newer@example.org")


def taken(stored: Stored) -> bytes:
    """Reads what was opened, and closes it."""
    if stored.content is not None:
        return stored.content
    with open(stored.descriptor, "rb") as file:
        return file.read()


class Storage:
    """A storage folder and the names in it, with another process's view of it."""

    def __init__(self, folder: Path, key: str = KEY) -> None:
        self.folder, self.key = folder, key
        self.driver = LocalDriver(str(folder))
        self.private = folder / ".metadata"
        self.uploads = self.private / "uploads"
        digest = hashlib.sha512(key.encode()).hexdigest()
        self.content, self.headers = folder / key, self.private / f"{digest}.headers"
        self.next = self.private / f"{digest}.next"

    def put(self, version: Version, driver: Optional[LocalDriver] = None) -> str:
        with (driver or self.driver).create(self.key) as incoming:
            incoming.write(version.content)
            return incoming.commit(self.key, version.content_type, [("owner", version.owner)])

    def get(self, driver: Optional[LocalDriver] = None) -> Optional[Version]:
        """The object, by default as a server sees it that starts now."""
        driver = driver or LocalDriver(str(self.folder))
        stored = driver.open(self.key)
        if stored is None:
            return None
        content = taken(stored)
        return Version(content, stored.content_type, driver.sidecar(self.key, stored.etag).get("tag-owner", ""))

    def private_files(self) -> set[Path]:
        return {path for path in self.private.rglob("*") if path != self.uploads}

    def assert_tidy(self) -> None:
        """Nothing is left of any upload but the object itself, and the listing knows no other."""
        assert self.private_files() == {self.headers}
        assert list(self.driver.keys("")) == [self.key]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage")


# ---- The layout on disk (UP-12): other tools read it


def test_content_and_sidecar_lie_where_other_tools_look(storage: Storage) -> None:
    etag = storage.put(OLD)
    digest = hashlib.sha512(b"lab/job/x.bin").hexdigest()
    assert (storage.folder / "lab/job/x.bin").read_bytes() == b"old content"
    sidecar = storage.folder / ".metadata" / f"{digest}.headers"
    assert sidecar.read_text() == f"content-type:a/old\ntag-owner:old@example.org\netag:{etag}\n"
    storage.assert_tidy()


def test_the_etag_comes_from_our_clock(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's ticks every few milliseconds, and two uploads may fit between two ticks."""
    monkeypatch.setattr("kcistorage_parts.local.time.time_ns", lambda: 0x123456789ABCDEF)
    assert storage.put(OLD) == '"123456789abcdef-b"'
    assert storage.content.stat().st_mtime_ns == 0x123456789ABCDEF


def test_every_tag_is_a_line_in_its_order(storage: Storage) -> None:
    with storage.driver.create(KEY) as incoming:
        incoming.commit(KEY, "text/plain", [("owner", "ü@example.org"), ("retention", "6m"), ("a.b", "")])
    lines = storage.headers.read_text(encoding="utf-8").splitlines()
    assert lines[:-1] == ["content-type:text/plain", "tag-owner:ü@example.org", "tag-retention:6m", "tag-a.b:"]


def test_no_value_makes_a_second_line(storage: Storage) -> None:
    """Callers check their values; that a sidecar cannot be forged must not rest on that alone."""
    with storage.driver.create(KEY) as incoming:
        incoming.commit(KEY, "a/b\r\ntag-owner:root", [("owner", "x\netag:y\udcff")])
    lines = storage.headers.read_text().splitlines()
    assert lines[:2] == ["content-type:a/b__tag-owner:root", "tag-owner:x_etag:y?"]
    assert len(lines) == 3


def test_folders_are_made_for_the_storage_itself(tmp_path: Path) -> None:
    LocalDriver(str(tmp_path / "a/b/c"))
    assert (tmp_path / "a/b/c/.metadata/uploads").is_dir()


def test_a_storage_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage(Path("storage"))
    monkeypatch.chdir("/")
    storage.put(OLD)
    assert (tmp_path / "storage" / KEY).exists()


def test_a_storage_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "storage").touch()
    with pytest.raises(NotADirectoryError):
        LocalDriver(str(tmp_path / "storage"))


# ---- The states that a crash can leave, by hand (UP-8)


def crash_in_upload(storage: Storage) -> None:
    (storage.uploads / "0123").write_bytes(NEW.content[:4])


def crash_before_sidecar(storage: Storage) -> None:
    crash_in_upload(storage)
    storage.next.touch()


def crash_in_sidecar(storage: Storage) -> None:
    """It even ends in the middle of the ETag."""
    crash_in_upload(storage)
    storage.next.write_text('content-type:a/new\ntag-owner:new@example.org\netag:"17a')


def crash_before_rename(storage: Storage) -> None:
    crash_in_upload(storage)
    storage.next.write_text('content-type:a/new\ntag-owner:new@example.org\netag:"1-f"\n')


def crash_in_folders(storage: Storage) -> None:
    crash_before_rename(storage)
    storage.content.parent.mkdir(parents=True, exist_ok=True)


def crash_after_rename(storage: Storage) -> None:
    """The content is new, and its sidecar is .next: step 4 is missing."""
    before = storage.headers.read_bytes() if storage.headers.exists() else None
    storage.put(NEW)
    storage.headers.rename(storage.next)
    if before is not None:
        storage.headers.write_bytes(before)


def crash_after_rename_and_upload_by_hand(storage: Storage) -> None:
    """As before, and a tool that knows no ETags had stored the object first."""
    crash_after_rename(storage)
    storage.headers.write_text("content-type:a/tool\n")


def crash_of_the_next_upload(storage: Storage) -> None:
    storage.put(NEW)
    crash_before_rename(storage)


UNCHANGED = [crash_in_upload, crash_before_sidecar, crash_in_sidecar, crash_before_rename, crash_in_folders]
CHANGED = [crash_after_rename, crash_after_rename_and_upload_by_hand, crash_of_the_next_upload]
CRASHES = [*((crash, False) for crash in UNCHANGED), *((crash, True) for crash in CHANGED)]


@pytest.mark.parametrize("old", [None, OLD], ids=["first upload", "overwrite"])
@pytest.mark.parametrize(("crash", "changed"), CRASHES, ids=[crash.__name__ for crash, _ in CRASHES])
def test_what_a_crash_leaves_is_the_old_object_or_the_new_one(
    storage: Storage, crash: Callable[[Storage], None], changed: bool, old: Optional[Version]
) -> None:
    if old is not None:
        storage.put(old)
    crash(storage)
    expected = NEW if changed else old
    assert storage.get(storage.driver) == expected, "as a process sees it that runs on"
    assert storage.get() == expected, "as a process sees it that starts now"
    assert list(storage.driver.keys("")) == ([KEY] if expected else [])
    assert list(storage.uploads.iterdir()) == []
    storage.put(NEWER)
    assert storage.get() == NEWER
    storage.assert_tidy()


def test_folders_that_a_crash_left_hollow_are_in_nobody_s_way(storage: Storage) -> None:
    """UP-4: a folder is no object, so `lab` may become one; with an object in it, it is a conflict."""
    (storage.folder / "lab/job/more").mkdir(parents=True)
    (storage.folder / "lab/other").mkdir()
    lab = Storage(storage.folder, "lab")
    lab.put(OLD)
    assert lab.get() == OLD
    lab.assert_tidy()


@pytest.mark.parametrize("early", [True, False])
def test_a_hollow_folder_goes_whole_or_stays_whole(storage: Storage, early: bool) -> None:
    storage.put(OLD)
    (storage.folder / "lab/a/b").mkdir(parents=True)
    with pytest.raises(IsADirectoryError), storage.driver.create("lab" if early else None) as incoming:
        incoming.commit("lab", "", ())
    assert (storage.folder / "lab/a/b").is_dir()
    storage.assert_tidy()


# ---- Faults at every system call


class Dead(BaseException):
    """The process was killed: nothing of it runs from here on."""


class System:
    """`os` and `fcntl` as the driver has them: `before` is told of each system call and may raise in its place.

    Nothing is really synced to the disk; who wants to know in which order, reads `calls`.
    """

    FILES = ("open", "close", "read", "pread", "write", "fsync", "ftruncate", "flock", "fstat", "utime")
    NAMES = ("stat", "scandir", "mkdir", "rmdir", "rename", "unlink")
    CALLS = frozenset(FILES + NAMES)

    def __init__(self, before: Callable[[str], object] = lambda name: None) -> None:
        self.before = before
        self.calls: list[tuple[str, str]] = []  # name and the path that it is about
        self.most_written = 1 << 30  # bytes that one write(2) takes
        self._paths: dict[int, str] = {}  # of the open descriptors

    def __getattr__(self, name: str) -> Any:
        function = getattr(os if hasattr(os, name) else fcntl, name)
        if name not in self.CALLS:
            return function
        return lambda *arguments, **options: self._call(name, function, *arguments, **options)

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        about: Any = arguments[-1] if name == "rename" else arguments[0]
        path = self._paths.get(about, "") if isinstance(about, int) else os.fsdecode(about)
        self.calls.append((name, path))
        if name == "close":  # which closes even where it fails
            del self._paths[about]
            os.close(about)
        self.before(name)
        if name == "write":
            arguments = (about, arguments[1][: self.most_written])
        result: Any = None if name in ("close", "fsync") else function(*arguments, **options)
        if name == "open":
            self._paths[result] = path
        return result

    def bury(self) -> None:
        """What the kernel does for a dead process: it closes, and so unlocks, all that was open."""
        for descriptor in self._paths:
            os.close(descriptor)
        self._paths.clear()


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    system = System()
    for part in (local, files):
        monkeypatch.setattr(part, "os", system)
        monkeypatch.setattr(part, "fcntl", system, raising=False)
    return system


class Nth:
    """Raises at the n-th system call; one that kills raises at all later ones too."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.number, self.error, self.count, self.happened = number, error, 0, False

    def __call__(self, name: str) -> None:
        self.count += 1
        if self.count == self.number or (self.count > self.number and isinstance(self.error, Dead)):
            self.happened = True
            raise self.error


def nothing_stored(storage: Storage) -> None:
    pass


def old_stored(storage: Storage) -> None:
    storage.put(OLD)


def crashed_before_rename(storage: Storage) -> None:
    storage.put(OLD)
    crash_before_rename(storage)


def crashed_after_rename(storage: Storage) -> None:
    storage.put(OLD)
    storage.headers.rename(storage.next)
    storage.headers.write_text('content-type:a/older\netag:"1-1"\n')


def hollow_folder_in_the_way(storage: Storage) -> None:
    (storage.content / "a/b").mkdir(parents=True)
    (storage.content / "c").mkdir()


SCENES = [nothing_stored, old_stored, crashed_before_rename, crashed_after_rename, hollow_folder_in_the_way]


def each_call(
    make: Callable[[], BaseException], scene: Callable[[Storage], None], folder: Path, system: System
) -> Iterator[Storage]:
    """The scene, again and again, each time with a fault at one system call later, until there is none left."""
    for number in itertools.count(1):
        system.before = lambda name: None
        storage = Storage(folder / f"{number}")
        scene(storage)
        system.before = nth = Nth(number, make())
        yield storage
        if not nth.happened:
            assert number > 15, "these were not all system calls"
            return


@pytest.mark.parametrize("scene", SCENES)
def test_killed_at_any_system_call(scene: Callable[[Storage], None], tmp_path: Path, system: System) -> None:
    """Invariant: after an upload that was killed, others see the old object or the new one, whole and with its own
    sidecar, and the next upload leaves nothing of it."""
    seen = set()
    for storage in each_call(Dead, scene, tmp_path, system):
        before, survivor = (OLD if storage.content.is_file() else None), storage.driver
        with contextlib.suppress(Dead):
            storage.put(NEW, LocalDriver(str(storage.folder)))
        system.before = lambda name: None
        system.bury()
        found = storage.get(survivor)
        assert found in (before, NEW)
        assert storage.get() == found, "a process that starts now sees the same"
        assert list(survivor.keys("")) == ([KEY] if found else [])
        assert list(storage.uploads.iterdir()) == []
        storage.put(NEWER, survivor)
        assert storage.get() == NEWER
        storage.assert_tidy()
        seen.add(found)
    assert seen == {before, NEW}, "no kill came early enough, or late enough"


def failure(call: Callable[[], object]) -> Optional[OSError]:
    try:
        call()
    except OSError as error:
        return error
    return None


@pytest.mark.parametrize("scene", SCENES)
def test_an_error_of_any_system_call(scene: Callable[[Storage], None], tmp_path: Path, system: System) -> None:
    """Invariant: an upload that fails leaves the old object and no trace, unless its rename is done: then it has stored
    the new one. One that succeeds has stored it."""
    outcomes = set()
    for storage in each_call(lambda: OSError(errno.ENOSPC, "injected"), scene, tmp_path, system):
        before, there = (OLD if storage.content.is_file() else None), storage.private_files()
        error = failure(lambda storage=storage: storage.put(NEW))  # type: ignore[misc]
        system.before = lambda name: None
        found = storage.get()
        assert found in ((before, NEW) if error else (NEW,))
        assert list(storage.driver.keys("")) == ([KEY] if found else [])
        assert list(storage.uploads.iterdir()) == []
        assert storage.private_files() - there <= {storage.headers, storage.next}
        if found is None:
            assert (storage.folder / "lab").exists() == (scene is hollow_folder_in_the_way), "folders were left"
        storage.put(NEWER)
        assert storage.get() == NEWER
        storage.assert_tidy()
        outcomes.add((error and error.errno, found))
    outcomes.discard((errno.EISDIR, None))  # a hollow folder that could not be removed
    assert outcomes == {(errno.ENOSPC, before), (errno.ENOSPC, NEW), (None, NEW)}


def test_no_room_for_the_last_name_is_no_failure(storage: Storage, system: System) -> None:
    """After the rename of the content the object is stored; a refusal would make the client send it again."""

    def fill_the_disk(name: str) -> None:
        if system.calls[-1] == ("rename", str(storage.headers)):
            raise OSError(errno.ENOSPC, "injected")

    system.before = fill_the_disk
    storage.put(OLD)
    assert storage.get() == storage.get(storage.driver) == OLD
    system.before = lambda name: None
    storage.put(NEW)
    assert storage.get() == NEW
    storage.assert_tidy()


@pytest.mark.parametrize("most", [1, 7])
def test_a_write_that_takes_only_a_part_is_continued(storage: Storage, system: System, most: int) -> None:
    """write(2) may do so at any time; a sidecar cut short would lose its ETag, and with it the object its type."""
    system.most_written = most
    storage.put(OLD)
    assert storage.get() == OLD
    storage.assert_tidy()


# ---- Loss of power: what is on the disk when (UP-8)


def test_no_step_begins_before_what_it_builds_on_is_on_the_disk(storage: Storage, system: System) -> None:
    storage.put(OLD)
    steps = [
        (name, path.replace(str(storage.folder), "").rstrip("/"))
        for name, path in system.calls
        if name in ("fsync", "mkdir", "rename")
    ]
    upload = steps[0][1]
    assert upload.startswith("/.metadata/uploads/")
    assert steps == [
        ("fsync", upload),
        ("fsync", "/.metadata/" + storage.next.name),
        ("fsync", "/.metadata"),
        ("mkdir", "/lab"),
        ("fsync", ""),
        ("mkdir", "/lab/job"),
        ("fsync", "/lab"),
        ("rename", "/lab/job/x.bin"),
        ("fsync", "/lab/job"),
        ("rename", "/.metadata/" + storage.headers.name),
    ]


def test_the_upload_after_a_crash_first_secures_what_the_dead_one_renamed(storage: Storage, system: System) -> None:
    storage.put(OLD)
    storage.headers.rename(storage.next)
    system.calls.clear()
    storage.put(NEW)
    settled = system.calls.index(("rename", str(storage.headers)))
    assert ("fsync", str(storage.content.parent)) in system.calls[:settled]
    assert ("rename", str(storage.content)) in system.calls[settled:]


# ---- Other processes on the same folder (UP-8)


class Between:
    """Does something once, between two system calls of whoever is watched."""

    def __init__(self, system: System, number: int, act: Callable[[], object]) -> None:
        self._system, self._number, self._act = system, number, act
        self.happened = False
        system.before = self

    def __call__(self, name: str) -> None:
        self._number -= 1
        if not self._number:
            self.happened = True
            self._system.before = lambda name: None  # what is done here is not watched itself
            self._act()


def overwrite(storage: Storage) -> None:
    storage.put(NEW, LocalDriver(str(storage.folder)))


def overwrite_twice(storage: Storage) -> None:
    overwrite(storage)
    storage.put(NEWER, LocalDriver(str(storage.folder)))


def crash_while_overwriting(storage: Storage) -> None:
    before = storage.headers.read_bytes()
    storage.put(NEW)
    storage.headers.rename(storage.next)
    storage.headers.write_bytes(before)


def delete(storage: Storage) -> None:
    storage.content.unlink()


def delete_with_folders(storage: Storage) -> None:
    shutil.rmtree(storage.folder / "lab")


def replace_a_folder(storage: Storage) -> None:
    delete_with_folders(storage)
    (storage.folder / "lab").touch()


MEANWHILE = [overwrite, overwrite_twice, crash_while_overwriting, delete, delete_with_folders, replace_a_folder]


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("pending", [False, True], ids=["settled", "pending"])
def test_whatever_happens_between_two_calls_of_a_reader(
    meanwhile: Callable[[Storage], None], pending: bool, tmp_path: Path, system: System
) -> None:
    """Invariant: a reader gets one version with its own type, or finds nothing where somebody deleted it."""
    seen = set()
    for number in itertools.count(1):
        system.before = lambda name: None
        storage = Storage(tmp_path / f"{number}")
        storage.put(OLD)
        if pending:  # the reader has to look for the sidecar in more places
            storage.headers.rename(storage.next)
            storage.headers.write_text('content-type:a/older\netag:"1-1"\n')
        between = Between(system, number, lambda storage=storage: meanwhile(storage))  # type: ignore[misc]
        stored = storage.driver.open(KEY)
        if not between.happened:
            break
        seen.add(None if stored is None else (taken(stored), stored.content_type))
    allowed = {(version.content, version.content_type) for version in (OLD, NEW, NEWER)}
    assert seen <= {*allowed, None}
    assert len(seen) == 2, "it made a difference when it happened"


def test_whenever_another_server_starts_an_upload_goes_on(tmp_path: Path, system: System) -> None:
    """It removes what dead processes left; a living upload is not that, not even before it could lock its file."""
    for number in itertools.count(1):
        system.before = lambda name: None
        storage = Storage(tmp_path / f"{number}")
        between = Between(system, number, lambda folder=str(storage.folder): LocalDriver(folder))  # type: ignore[misc]
        storage.put(OLD)
        assert storage.get() == OLD
        storage.assert_tidy()
        if not between.happened:
            return


def test_whenever_another_upload_takes_its_folders_away(tmp_path: Path, system: System) -> None:
    """A failed upload removes the folders that it made, if they are empty, as they are just before a rename."""

    def take_away(storage: Storage) -> None:
        for folder in ("lab/job", "lab"):
            with contextlib.suppress(OSError):
                (storage.folder / folder).rmdir()

    for number in itertools.count(1):
        system.before = lambda name: None
        storage = Storage(tmp_path / f"{number}")
        between = Between(system, number, lambda storage=storage: take_away(storage))  # type: ignore[misc]
        storage.put(OLD)
        assert storage.get() == OLD
        storage.assert_tidy()
        if not between.happened:
            return


def test_folders_that_vanish_again_and_again_are_an_error(storage: Storage, system: System) -> None:
    """As are uploads that somebody removed by hand: there is an end to trying."""

    def take_away(name: str) -> None:
        if name == "rename":
            shutil.rmtree(storage.folder / "lab", ignore_errors=True)

    system.before = take_away
    with pytest.raises(FileNotFoundError):
        storage.put(OLD)
    assert storage.private_files() == set()
    assert list(storage.driver.keys("")) == []


def test_commits_of_one_key_wait_for_each_other(storage: Storage, system: System) -> None:
    """From the first byte of a sidecar to its last name: else two of them would write into one .next."""
    first_renames, second_waits = threading.Event(), threading.Event()
    between: list[Optional[Version]] = []

    def watch(name: str) -> None:
        if name == "rename" and not first_renames.is_set():
            first_renames.set()
            assert second_waits.wait(10)
        elif first_renames.is_set() and system.calls[-1] == ("flock", str(storage.next)):
            second_waits.set()
        elif system.calls[-1] == ("rename", str(storage.content)):
            between.append(storage.get(storage.driver))

    first = threading.Thread(target=lambda: storage.put(OLD))
    second = threading.Thread(target=lambda: storage.put(NEW, LocalDriver(str(storage.folder))))
    system.before = watch
    first.start()
    assert first_renames.wait(10)
    second.start()
    first.join(10)
    second.join(10)
    assert between == [OLD]
    assert storage.get() == NEW
    storage.assert_tidy()


WRITER = """
import sys
from kcistorage_parts.local import LocalDriver
root, name = sys.argv[1:]
for number in range(60):
    driver = LocalDriver(root)
    with driver.create("lab/job/x.bin") as incoming:
        content = f"{name}{number}"
        incoming.write(content.encode() * (number * 500 + 1))
        incoming.commit("lab/job/x.bin", f"a/{content}", [("owner", content)])
"""


def test_two_real_processes_and_a_reader(storage: Storage) -> None:
    storage.put(Version(b"c0", "a/c0", "c0"))
    home = Path(local.__file__).parents[1]
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(storage.folder), name], cwd=home) for name in "ab"]
    seen = set()
    while None in [writer.poll() for writer in writers]:
        stored = storage.driver.open(KEY)
        assert stored is not None
        word, content = stored.content_type[2:].encode(), taken(stored)
        assert content == word * (stored.size // len(word))
        seen.add(word)
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(seen) > 5
    storage.assert_tidy()


# ---- Leftovers


def test_a_starting_server_removes_what_dead_uploads_left(storage: Storage) -> None:
    (storage.uploads / "dead").write_bytes(b"half")
    LocalDriver(str(storage.folder))
    assert storage.private_files() == set()


def test_a_starting_server_leaves_living_uploads_alone(storage: Storage) -> None:
    with storage.driver.create(KEY) as incoming:
        incoming.write(OLD.content)
        LocalDriver(str(storage.folder))
        incoming.commit(KEY, OLD.content_type, [("owner", OLD.owner)])
    assert storage.get() == OLD


def test_a_starting_server_passes_over_what_is_no_upload(storage: Storage) -> None:
    (storage.uploads / "folder").mkdir()
    (storage.uploads / "link").symlink_to("nowhere")
    os.mkfifo(storage.uploads / "fifo")
    (storage.uploads / "dead").touch()
    storage.put(OLD, LocalDriver(str(storage.folder)))
    assert not (storage.uploads / "dead").exists()
    assert storage.get() == OLD


# ---- Sidecars that somebody else wrote, and none at all (UP-12)


def stored_type(storage: Storage) -> str:
    stored = LocalDriver(str(storage.folder)).open(KEY)
    assert stored is not None
    taken(stored)
    return stored.content_type


@pytest.fixture
def copied(storage: Storage) -> Storage:
    """A storage with one object that was copied in by hand."""
    storage.content.parent.mkdir(parents=True)
    storage.content.write_bytes(b"by hand")
    return storage


def test_content_without_a_sidecar_is_an_object_of_no_type(copied: Storage) -> None:
    assert stored_type(copied) == ""
    assert list(copied.driver.keys("")) == [KEY]


def test_a_sidecar_without_content_is_no_object(storage: Storage) -> None:
    storage.put(OLD)
    storage.content.unlink()
    assert storage.get() is None
    assert list(storage.driver.keys("")) == []
    storage.put(NEW)
    assert storage.get() == NEW
    storage.assert_tidy()


@pytest.mark.parametrize(
    ("text", "content_type"),
    [
        (b"content-type:a/b\ntag-owner:x\n", "a/b"),  # as Upstream writes them: no ETag
        (b'Content-Type: a/b ; c="d:e" \r\nX\r\n', 'a/b ; c="d:e"'),
        (b"content-type:a/b", "a/b"),
        (b'content-type:a/b\netag:"of-another-time"\n', "a/b"),  # a backup came back with the time of today
        (b"content-type:a/\xff\n", "a/\ufffd"),
        (b"", ""),
        (b"\x00\xff\n:\n::\nno colon at all", ""),
        (b"tag-owner:x\n" * 1_000_000, ""),
        (b"\x00" * 10_000_000, ""),
    ],
    ids=["upstream", "CRLF", "no line end", "other ETag", "not UTF-8", "empty", "garbage", "huge", "zeros"],
)
def test_a_sidecar_by_hand(copied: Storage, text: bytes, content_type: str) -> None:
    copied.headers.write_bytes(text)
    tracemalloc.start()
    try:
        assert stored_type(copied) == content_type
        assert tracemalloc.get_traced_memory()[1] < 8_000_000, "a sidecar is read up to its limit only"
    finally:
        tracemalloc.stop()
    copied.put(NEW)
    assert copied.get() == NEW
    copied.assert_tidy()


def test_what_is_no_file_is_no_sidecar(copied: Storage) -> None:
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink(path, path)):
        make(copied.headers)
        assert stored_type(copied) == ""
        (os.rmdir if copied.headers.is_dir() else os.unlink)(copied.headers)


def test_content_changed_by_hand_keeps_the_type_that_was_told(storage: Storage) -> None:
    """Nobody said that it is another one."""
    etag = storage.put(OLD)
    storage.content.write_bytes(b"edited")
    assert storage.get() == OLD._replace(content=b"edited")
    stored = storage.driver.open(KEY)
    assert stored is not None
    assert stored.etag != etag


# ---- Other people's files in the storage


def nothing(path: Path) -> None:
    """Not even a file."""


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, tempfile.TemporaryDirectory() as short:
        listener.bind(f"{short}/s")  # a socket's path has 107 bytes at most
        shutil.copytree(short, path.parent, dirs_exist_ok=True, copy_function=os.rename)
        (path.parent / "s").rename(path)


def dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_the_root(path: Path) -> None:
    path.symlink_to("/")


@pytest.mark.parametrize(
    "make",
    [
        nothing,
        os.mkdir,
        os.mkfifo,
        make_socket,
        dangling_link,
        link_to_itself,
        link_to_a_device,
        link_to_the_root,
    ],
)
def test_what_is_no_regular_file_is_no_object(storage: Storage, make: Callable[[Path], object]) -> None:
    """And nothing hangs on it. A link to another folder is not walked: it may lead anywhere, or round in a circle."""
    storage.content.parent.mkdir(parents=True)
    (storage.folder / "a").touch()
    make(storage.content)
    assert storage.driver.open(KEY) is None
    assert list(storage.driver.keys("")) == ["a"]


@pytest.mark.parametrize("make", [nothing, os.mkfifo, make_socket, dangling_link, link_to_a_device])
def test_an_upload_takes_the_name_of_what_is_no_folder(storage: Storage, make: Callable[[Path], object]) -> None:
    storage.content.parent.mkdir(parents=True)
    make(storage.content)
    storage.put(OLD)
    assert storage.get() == OLD
    assert not storage.content.is_symlink()
    storage.assert_tidy()


def test_a_linked_file_is_an_object_and_an_upload_replaces_the_link(storage: Storage, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"linked")
    storage.content.parent.mkdir(parents=True)
    storage.content.symlink_to(elsewhere)
    assert storage.get() == Version(b"linked", "", "")
    assert list(storage.driver.keys("")) == [KEY]
    storage.put(NEW)
    assert elsewhere.read_bytes() == b"linked"
    assert storage.get() == NEW


@pytest.mark.parametrize("early", [True, False])
def test_a_link_to_a_folder_is_never_replaced(storage: Storage, tmp_path: Path, early: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    (storage.folder / "lab").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IsADirectoryError), storage.driver.create("lab" if early else None) as incoming:
        incoming.commit("lab", "", ())
    assert (storage.folder / "lab").is_symlink()


def test_a_name_that_is_not_utf_8_is_passed_over(storage: Storage) -> None:
    storage.put(OLD)
    for name in (b"\xff", b"caf\xe9", b"\xed\xa0\x80"):
        (storage.folder / os.fsdecode(name)).touch()
    assert list(storage.driver.keys("")) == [KEY]


def dig(folder: Path, name: str, depth: int) -> None:
    """Folders in each other; their paths are too long for any call."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        deeper = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)


def test_folders_deeper_than_any_key_and_than_python_can_recurse(storage: Storage) -> None:
    storage.put(OLD)
    dig(storage.folder, "d", 1_500)
    assert list(storage.driver.keys("")) == [KEY]
    subprocess.run(["rm", "-rf", storage.folder], check=True)  # Python's rmtree would recurse


def test_a_folder_that_vanishes_while_it_is_listed(storage: Storage, system: System) -> None:
    storage.put(OLD)
    (storage.folder / "a").touch()
    (storage.folder / "m/n").mkdir(parents=True)
    (storage.folder / "z").touch()
    listing = storage.driver.keys("")
    assert next(listing) == "a"
    system.before = lambda name: shutil.rmtree(storage.folder / "m") if (storage.folder / "m").exists() else None
    assert list(listing) == [KEY, "z"]


def test_a_storage_that_vanishes_is_an_error(storage: Storage) -> None:
    shutil.rmtree(storage.folder)
    with pytest.raises(FileNotFoundError):
        list(storage.driver.keys(""))


@contextlib.contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Root reads everything, unless it lays down CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH for a while (this thread)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, the calling thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of capabilities 0 to 31; then of the others
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] = effective & ~0b110
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


@pytest.fixture
def permissions() -> Iterator[None]:
    with bound_by_permissions():
        yield


@pytest.mark.usefixtures("permissions")
def test_a_folder_of_somebody_else_is_not_listed(storage: Storage) -> None:
    """lost+found, for one: it must not make the listing of all other folders fail."""
    storage.put(OLD)
    (storage.folder / "lost+found").mkdir(mode=0)
    (storage.folder / "lost+found").chmod(0)
    assert list(storage.driver.keys("")) == [KEY]
    (storage.folder / "lost+found").chmod(0o700)


@pytest.mark.usefixtures("permissions")
def test_an_object_that_we_may_not_read_is_an_error(storage: Storage) -> None:
    """Not a 404: an operator has to see it. The same for its sidecar, or the type would be a guess."""
    storage.put(OLD)
    for path in (storage.content, storage.headers):
        path.chmod(0)
        with pytest.raises(PermissionError):
            storage.get()
        path.chmod(0o600)
    assert storage.get() == OLD


def test_descriptors_are_closed_whatever_fails(storage: Storage, system: System) -> None:
    """Reading, with an error at each system call in turn."""
    storage.put(OLD)
    before = len(os.listdir("/proc/self/fd"))
    for number in itertools.count(1):
        system.before = nth = Nth(number, OSError(errno.EIO, "injected"))
        if not nth.happened:
            with contextlib.suppress(OSError):
                stored = LocalDriver(str(storage.folder)).open(KEY)
                assert stored is not None
                assert stored.content == OLD.content
        assert len(os.listdir("/proc/self/fd")) == before
        if not nth.happened:
            break


@pytest.mark.parametrize("seconds", [-86_400, 0, 4_000_000_000, 253_402_300_800])
def test_a_file_of_any_time_can_be_downloaded(server: Running, seconds: int) -> None:
    """Before 1970; beyond 2038, 2106 and 9999 (as far as the file system goes)."""
    (server.storage / "x").write_bytes(b"old")
    os.utime(server.storage / "x", (seconds, seconds))
    with server.peer() as peer:
        reply = peer.get("/x")
        assert (reply.status, reply.body) == (200, b"old")
        assert peer.get("/x", f"If-None-Match: {reply.fields['etag']}").status == 304


def test_what_is_in_the_storage_by_hand_is_listed_only_if_a_url_can_name_it(server: Running) -> None:
    """LS-1, DL-3: what the listing names can be downloaded."""
    for name in ("good", "line\nbreak", "del\x7f", "metrics", "ü"):
        (server.storage / name).write_bytes(name.encode())
    (server.storage / os.fsdecode(b"caf\xe9")).touch()
    os.mkfifo(server.storage / "fifo")
    with server.peer() as peer:
        listed = peer.get("/v1/list").text.splitlines()
        assert {"good", "ü"} <= set(listed)
        assert not {"fifo", "line", "break", "del\x7f"} & set(listed)
        assert peer.get("/fifo").status == 404
        assert [peer.get(f"/{name}").text for name in ("good", "%C3%BC")] == ["good", "ü"]


@pytest.mark.parametrize("content_type", ["text/html\x00", "not a type", "a/b\rSet-Cookie: x=y", "é/è", ""])
def test_a_type_by_hand_that_is_none_cannot_break_the_head(server: Running, content_type: str) -> None:
    (server.storage / "x.json").write_bytes(b"{}")
    sidecar = hashlib.sha512(b"x.json").hexdigest() + ".headers"
    (server.storage / ".metadata" / sidecar).write_text(f"content-type:{content_type}\n", encoding="utf-8")
    with server.peer() as peer:
        assert peer.get("/x.json").fields["content-type"] == "application/json"


def test_a_key_that_only_begins_like_the_private_folder(server: Running) -> None:
    """UP-4, DL-3: `.metadata` is reserved, `.metadata-2` is not: what can be stored can be fetched."""
    with server.peer() as peer:
        assert peer.upload(token(), ".metadata-2", "x", b"mine").status == 200
        assert peer.get("/v1/list").text == ".metadata-2/x\n"
        assert peer.get("/.metadata-2/x").body == b"mine"
        assert peer.upload(token(), ".metadata", "x", b"mine").status == 400
        assert peer.get("/.metadata/x").status == 404


# ---- Small objects in memory: good for the very file that they were read from


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was stored just now is as good as old."""
    monkeypatch.setattr(local, "SETTLED_NS", -(10**18))


@pytest.mark.usefixtures("settled")
def test_a_small_object_is_read_once(storage: Storage, system: System) -> None:
    storage.put(OLD)
    first = storage.driver.open(KEY)
    system.calls.clear()
    assert storage.driver.open(KEY) == first
    assert system.calls == [("stat", str(storage.content))]


def test_an_object_that_may_change_again_unseen_is_not_kept(storage: Storage, system: System) -> None:
    """The clock of a file system ticks every few milliseconds: two changes within one leave the same times."""
    storage.put(OLD)
    storage.driver.open(KEY)
    system.calls.clear()
    storage.driver.open(KEY)
    assert ("open", str(storage.content)) in system.calls


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("size", [local.SMALL_OBJECT, local.SMALL_OBJECT + 1])
def test_only_small_objects_are_kept(storage: Storage, size: int) -> None:
    storage.put(OLD._replace(content=b"x" * size))
    stored = storage.driver.open(KEY)
    assert stored is not None
    assert (stored.content is not None) == (size <= local.SMALL_OBJECT)
    assert taken(stored) == b"x" * size


def edit(storage: Storage) -> None:
    """In place, to the same size, with the time of before."""
    status = storage.content.stat()
    storage.content.write_bytes(NEW.content[: status.st_size])
    os.utime(storage.content, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", [edit, overwrite, delete, delete_with_folders, replace_a_folder])
def test_whoever_changes_the_file_it_is_seen(storage: Storage, change: Callable[[Storage], None]) -> None:
    storage.put(OLD)
    assert storage.get(storage.driver) == OLD
    change(storage)
    assert storage.get(storage.driver) == storage.get() != OLD


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("text", [b"half", b"twice as long as before"])
def test_a_file_that_changes_while_it_is_read_is_not_kept(storage: Storage, system: System, text: bytes) -> None:
    storage.put(OLD)
    system.before = lambda name: storage.content.write_bytes(text) if name == "pread" else None
    stored = storage.driver.open(KEY)
    assert stored is not None
    assert stored.content is None
    assert taken(stored) == text
    system.before = lambda name: None
    again = storage.driver.open(KEY)
    assert again is not None
    assert again.content == text


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("size", [0, 1_000])
def test_small_objects_have_a_bound_whatever_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A million empty objects are a million entries, and the oldest leave first."""
    monkeypatch.setattr(local, "SMALL_OBJECTS", 10 * (local.SMALL_OBJECT_EXTRA + size))
    status, small = os.stat(tmp_path), SmallObjects()
    stored = Stored(-1, b"x" * size, size, '"e"', 0, "")
    for number in range(100):
        small.put(f"{number}", status, stored)
        small.put(f"{number}", status, stored)  # as two threads do
    assert [number for number in range(100) if small.get(f"{number}", status)] == list(range(90, 100))


# ---- Listing a large storage in little memory (LS-1)

FILE_NAMES = st.binary(min_size=1, max_size=6).map(lambda name: name.replace(b"\0", b"a"))


@given(found=st.lists(FILE_NAMES, unique=True), in_memory=st.integers(1, 10))
def test_names_come_sorted_however_few_fit_into_memory(found: list[bytes], in_memory: int) -> None:
    """Invariant: sorted_names is sorted()."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "SORTED_IN_MEMORY", in_memory)
        assert list(sorted_names(iter(found))) == sorted(found)


def test_a_block_on_disk_may_end_anywhere_in_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SORTED_IN_MEMORY", 1_000)
    found = [f"{number:05}-{'x' * (number % 190)}".encode() for number in range(3_000)]
    assert list(sorted_names(reversed(found))) == found


def test_a_folder_of_any_size_is_sorted_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SORTED_IN_MEMORY", 5_000)
    tracemalloc.start()
    try:
        count = sum(1 for _ in sorted_names(b"%032d" % (number * 7_919 % 60_000) for number in range(60_000)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 60_000
    assert peak < 60_000 * 33  # all of them, and a list of them, take thrice that
