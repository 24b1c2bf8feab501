"""Files that are there whole or not at all, also after a crash or a loss of power (UP-8, SO-4).

    NewFile    a file in the making, in a folder of its own kind: locked while its process lives
    then       fsync, rename to its name, and fsync of the folder that has the name

What a dead process has left is told from what a living one still writes by that lock. Any thread may call; several
processes may share a folder. POSIX: rename(2), fsync(2) and flock(2) are what everything here rests on.

All parts that store files may stand on this one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Sequence

SETTLED_NS = 1_000_000_000  # a file that changed less than a second ago may change again within one tick of its clock

Identity = tuple[int, int, int, int, int]


def identity(status: os.stat_result) -> Identity:
    """What changes whenever anybody changes the file or puts another in its place."""
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size


def write_all(descriptor: int, data: bytes) -> None:
    """write(2) may take less than it was given, as it does just before a disk is full."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def same_file(descriptor: int, path: bytes) -> bool:
    """Whether the open file still goes by this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def sync_folder(path: bytes) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def missing_folders(path: bytes) -> list[bytes]:
    """Of a folder and its parents those that are not there, the outermost first."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing[::-1]


def make_folders(folders: Sequence[bytes]) -> None:
    """Makes folders, durably, the outermost first."""
    for folder in folders:
        with contextlib.suppress(FileExistsError):  # made by another upload meanwhile, or a file: then the rename fails
            os.mkdir(folder)
        sync_folder(os.path.dirname(folder))


class NewFile:
    """A file in the making. One thread. Closing takes it away, unless it was renamed and so `kept`."""

    def __init__(self, folder: bytes) -> None:
        """Makes it in a folder, whose path ends in a slash. Raises OSError."""
        self.kept = False
        while not self._take(folder + secrets.token_hex(12).encode()):
            continue

    def _take(self, path: bytes) -> bool:
        """Makes and locks the file; false where a starting server, in between, took it for a leftover."""
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            taken = same_file(self.descriptor, path)
        except BaseException:
            self.close()
            raise
        if not taken:
            os.close(self.descriptor)
        return taken

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Raises OSError, as ENOSPC."""
        write_all(self.descriptor, data)

    def settle(self, modified_ns: int) -> os.stat_result:
        """Gives it its time, in nanoseconds since the epoch, and brings it to the disk.

        (A time of ours: the kernel's stamps tick every 4 ms, which is too coarse to tell two versions apart.)
        """
        os.utime(self.descriptor, ns=(modified_ns, modified_ns))
        os.fsync(self.descriptor)
        return os.fstat(self.descriptor)

    def close(self) -> None:
        try:
            if not self.kept:
                with contextlib.suppress(FileNotFoundError):  # renamed, and what came after that failed
                    os.unlink(self.path)
        finally:
            os.close(self.descriptor)


def remove_leftovers(folder: bytes) -> None:
    """Of files in the making those whose process is dead. A living one, perhaps another server, has its own locked."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                left = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)
                finally:
                    os.close(left)
