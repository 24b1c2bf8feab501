"""Files that are there whole or not at all: what `test_local.py` and `test_replicas.py` do not ask of files.py."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from kcistorage_parts import files
from kcistorage_parts.files import (
    NewFile,
    identity,
    make_folders,
    missing_folders,
    remove_leftovers,
    same_file,
    sync_folder,
    write_all,
)


def opened_below(folder: Path) -> list[str]:
    """What this process has open in a folder."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself, and what other threads close
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(f"{folder}/")]


def folder_of(path: Path) -> bytes:
    return os.fsencode(path) + b"/"


def test_a_new_file_is_gone_with_its_block_unless_it_was_kept(tmp_path: Path) -> None:
    with NewFile(folder_of(tmp_path)) as file:
        file.write(b"some")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"some"]
    assert list(tmp_path.iterdir()) == []
    with NewFile(folder_of(tmp_path)) as file:
        os.rename(file.path, tmp_path / "kept")
        file.kept = True
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_file_that_was_moved_without_being_kept_is_no_error(tmp_path: Path) -> None:
    """What came after the rename has failed, say."""
    file = NewFile(folder_of(tmp_path))
    os.rename(file.path, tmp_path / "moved")
    file.close()
    assert (tmp_path / "moved").exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file.descriptor)


def test_a_file_that_cannot_be_locked_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system without locks."""

    def flock(descriptor: int, how: int) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="no locks here"):
        NewFile(folder_of(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert opened_below(tmp_path) == []


def test_a_file_that_was_taken_for_a_leftover_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its birth and its lock a starting server may find it."""
    flock, count = fcntl.flock, itertools.count(1)

    def late(descriptor: int, how: int) -> None:
        if next(count) <= 3:
            for path in tmp_path.iterdir():
                path.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with NewFile(folder_of(tmp_path)) as file:
        assert [os.fsencode(path) for path in tmp_path.iterdir()] == [file.path]
        assert len(opened_below(tmp_path)) == 1


@pytest.mark.parametrize("most", [1, 3, 1_000])
def test_a_write_that_takes_only_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    real = os.write
    with NewFile(folder_of(tmp_path)) as file:
        monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:most]))
        write_all(file.descriptor, b"")
        write_all(file.descriptor, bytes(range(100)))
        monkeypatch.undo()
        assert os.pread(file.descriptor, 200, 0) == bytes(range(100))


def test_a_file_gets_its_time_to_the_nanosecond(tmp_path: Path) -> None:
    with NewFile(folder_of(tmp_path)) as file:
        assert file.settle(0x123456789ABCDEF).st_mtime_ns == 0x123456789ABCDEF


def test_what_identifies_a_file(tmp_path: Path) -> None:
    """Whatever is done to it, or put in its place, shows; a look at it does not."""
    path = tmp_path / "x"
    path.write_bytes(b"12")
    os.utime(path, ns=(1, 1))
    seen = [identity(path.stat())]
    path.read_bytes()
    assert identity(path.stat()) == seen[0]
    os.utime(path, ns=(2, 2))
    seen.append(identity(path.stat()))
    os.truncate(path, 1)
    os.utime(path, ns=(2, 2))
    seen.append(identity(path.stat()))
    (tmp_path / "y").write_bytes(b"1")
    os.utime(tmp_path / "y", ns=(2, 2))
    (tmp_path / "y").rename(path)
    seen.append(identity(path.stat()))
    assert len(set(seen)) == 4


def test_same_file(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "x")
    with open(path, "wb") as file:
        assert same_file(file.fileno(), path)
        os.link(path, path + b"2")
        assert same_file(file.fileno(), path + b"2")
        os.unlink(path)
        assert not same_file(file.fileno(), path)
        assert not same_file(file.fileno(), path + b"2/x")
        Path(os.fsdecode(path)).touch()
        assert not same_file(file.fileno(), path)


def test_folders_are_made_from_the_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    top = os.fsencode(tmp_path)
    missing = missing_folders(top + b"/a/b/c")
    assert missing == [top + b"/a", top + b"/a/b", top + b"/a/b/c"]
    make_folders(missing)
    assert synced == [top, top + b"/a", top + b"/a/b"]
    assert missing_folders(top + b"/a/b/c") == []
    make_folders(missing)  # as two uploads do at once
    assert os.path.isdir(top + b"/a/b/c")


def test_a_folder_is_synced_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    sync_folder(os.fsencode(tmp_path))
    assert synced == [str(tmp_path)]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(os.fsencode(tmp_path / "file"))


def test_leftovers(tmp_path: Path) -> None:
    """Only files that nobody has locked; whatever else lies there is passed over, and nothing hangs on it."""
    (tmp_path / "dead").write_bytes(b"half")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("nowhere")
    with NewFile(folder_of(tmp_path)) as living:
        remove_leftovers(os.fsencode(tmp_path))
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"folder", "link", os.path.basename(living.path).decode()}
        assert len(opened_below(tmp_path)) == 1


def test_leftovers_of_a_process_that_was_killed(tmp_path: Path) -> None:
    """The kernel lets go of its locks."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        file: Any = NewFile(folder_of(tmp_path))
        os.write(writer, file.path)
        os.read(os.pipe()[0], 1)  # until it is killed
    path = os.read(reader, 1_000)
    remove_leftovers(os.fsencode(tmp_path))
    assert os.path.exists(path)
    os.kill(child, 9)
    os.waitpid(child, 0)
    remove_leftovers(os.fsencode(tmp_path))
    assert not os.path.exists(path)
    for descriptor in (reader, writer):
        os.close(descriptor)
