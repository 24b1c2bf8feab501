"""The scrub: reads the local storage once, every byte of it, and tells what is wrong (UP-12).

    ok                       an object that was read whole; its sidecar, if it has one, belongs to it
    unreadable               an object, sidecar or folder that the system does not give us, or not whole
    size-differs             the sidecar was written for a content of another size
    sidecar-outdated         the sidecar was written for another version: somebody changed the content by hand
    sidecar-without-content  nothing goes by the name that the sidecar is for
    leftover                 of an upload whose process is dead: its file, or the sidecar that it did not get to use
    not-a-key                no request is meant to find it: a name that no key can have; what is neither file nor
                             folder; a link to a folder, which no listing follows

It changes nothing, and servers may run meanwhile. What an upload or a deletion is about at the very moment is no
finding: whatever looks wrong is looked at again, and counts if it is still the same and no living process has it
locked.

A sidecar's name is a digest, which does not tell its key. So the digests of all keys, sorted (on disk, when they are
many), are laid beside the names of all sidecars. Where a folder is not walked we do not know all keys, and say nothing
about sidecars without content.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import heapq
import itertools
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Callable, NamedTuple, Optional

OWN = b".metadata/"
UPLOADS = OWN + b"uploads/"
HEADERS, NEXT = b".headers", b".next"
DIGITS = 128  # of a digest
SUSPECTS = {HEADERS: "sidecar-without-content", NEXT: "leftover"}  # by what comes after the digest
LOST_AND_FOUND = b"lost+found/"  # of the file system, for root: what a server cannot list there is none of its objects
NOT_WALKED = b"."  # a name for a folder in itself, that nothing else has
OUR_ETAG = re.compile(r'"-?[0-9a-f]+-([0-9a-f]+)"')  # the second number is the size in bytes
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a fifo must not hang us
GONE = frozenset([errno.ENOENT, errno.ENOTDIR])
BLOCK = 1 << 20  # bytes read at a time
LOOKS = 4  # at what looks wrong, and in another way each time


class Scrubbed(NamedTuple):
    """What was looked at, and what came of it."""

    path: str  # below the storage folder, for people
    what: str  # one of the words above
    size: int  # bytes


class Layout(NamedTuple):
    """How the local driver keeps its objects; local.py and names.py say more."""

    etag: Callable[[os.stat_result], str]  # local.entity_tag
    lines: Callable[[bytes], Mapping[str, str]]  # local.read_sidecar
    sort: Callable[[Iterator[bytes]], Iterator[bytes]]  # local.sorted_names: takes all in before it gives any
    is_key: Callable[[str], bool]  # names.is_key


def shown(path: bytes) -> str:
    """A path as one line of text that moves no terminal's cursor; a folder ends in a slash."""
    name = path[:-1] if path.endswith(b"/" + NOT_WALKED) else path
    text = name.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def digest(path: bytes) -> bytes:
    """What a sidecar is called by (UP-12)."""
    return hashlib.sha512(path).hexdigest().encode()


def is_there(path: bytes) -> bool:
    """Whether there is something, be it out of our reach."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno not in GONE
    return True


def size_at(path: bytes) -> int:
    """The size of what is there in bytes, 0 where it cannot be told."""
    with contextlib.suppress(OSError):
        return os.lstat(path).st_size
    return 0


def is_alive(path: bytes) -> bool:
    """Whether a process has this file locked, as it has what it uploads and the sidecar that it writes."""
    try:
        descriptor = os.open(path, READ | os.O_NOFOLLOW)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EPERM)  # who knows?
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def forget(descriptor: int, size: int) -> None:
    """Takes what a file begins with (0: all of it) out of the page cache, which has better to keep, and would hide
    the state of the disk."""
    if hasattr(os, "posix_fadvise"):  # macOS has none
        os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_DONTNEED)


class Scrub:
    """Iterating over it reads the storage, once; `pace` is called at each step, and what it raises is the end.

    Raises OSError where the storage folder itself cannot be listed. One thread; memory is bounded.
    """

    def __init__(self, root: str, layout: Layout, pace: Callable[[], object] = lambda: None) -> None:
        self._root = os.path.join(os.path.abspath(os.fsencode(root)), b"")
        self._layout, self._pace = layout, pace
        self._buffer = bytearray(BLOCK)
        self._all_walked = True

    def __iter__(self) -> Iterator[Scrubbed]:
        uploads = self._layout.sort(self._names(UPLOADS))  # now: one that begins later may not have locked its file yet
        for path in self._walk():
            found = self._judged(path)
            if found is not None:
                yield found
        for name in self._suspects(self._suspects(self._names(OWN))):
            yield self._found(OWN + name, SUSPECTS.get(name[DIGITS:], "not-a-key"))
        for name in uploads:
            place = self._root + UPLOADS + name
            if (name == NOT_WALKED or not is_alive(place)) and is_there(place):  # in this order: it may end well by now
                yield self._found(UPLOADS + name, "leftover")

    def _found(self, path: bytes, what: str) -> Scrubbed:
        unlisted = path in (OWN + NOT_WALKED, UPLOADS + NOT_WALKED)
        return Scrubbed(shown(path), "unreadable" if unlisted else what, size_at(self._root + path))

    # ---- Names

    def _names(self, folder: bytes) -> Iterator[bytes]:
        """What is in a folder: `name/` for one to walk, `name/.` for a link to one, `.` if it cannot be listed."""
        try:
            with os.scandir(self._root + folder) as entries:
                for entry in entries:
                    self._pace()
                    if not folder and entry.name == OWN[:-1]:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        yield entry.name + b"/"
                    elif entry.is_symlink() and os.path.isdir(entry.path):
                        yield entry.name + b"/" + NOT_WALKED
                    else:
                        yield entry.name
        except OSError:
            if not folder:
                raise
            if folder != LOST_AND_FOUND:
                yield NOT_WALKED

    def _walk(self) -> Iterator[bytes]:
        """The paths of all that is no folder, and `folder/.` for those that are not walked; nothing private."""
        levels = [(b"", self._layout.sort(self._names(b"")))]  # a stack: the tree may be deeper than Python's
        while levels:
            folder, names = levels[-1]
            name = next(names, None)
            if name is None:
                levels.pop()
            elif not name.endswith(b"/"):
                yield folder + name
            else:
                levels.append((folder + name, self._layout.sort(self._names(folder + name))))

    def _is_key(self, path: bytes) -> bool:
        try:
            return self._layout.is_key(path.decode())
        except UnicodeDecodeError:
            return False

    def _hides_keys(self, path: bytes) -> bool:
        """Whether it is a folder that is not walked, and in which there could be objects."""
        return path.endswith(b"/" + NOT_WALKED) and self._is_key(path[:-1] + b"x")

    # ---- Objects

    def _judged(self, path: bytes) -> Optional[Scrubbed]:
        """What two looks agree about; None for what is gone, and for what somebody keeps changing."""
        look = self._look_at_folder if path.endswith(b"/" + NOT_WALKED) else self._look
        found = None
        for _ in range(LOOKS):
            before, found = found, look(path)
            if found is None or found.what == "ok" or found == before:
                return found
        return None

    def _look_at_folder(self, path: bytes) -> Optional[Scrubbed]:
        folder = self._root + path[:-2]
        walkable = self._hides_keys(path) and not os.path.islink(folder)
        return Scrubbed(shown(path), "unreadable" if walkable else "not-a-key", 0) if is_there(folder) else None

    def _look(self, path: bytes) -> Optional[Scrubbed]:
        place, what = self._root + path, "not-a-key"
        if self._is_key(path):
            try:
                status = os.stat(place)
                if stat.S_ISREG(status.st_mode):
                    return self._object(path, status)
                if stat.S_ISDIR(status.st_mode):  # by now
                    return None
            except OSError:
                what = "unreadable"
        return self._found(path, what) if is_there(place) else None

    def _object(self, path: bytes, status: os.stat_result) -> Scrubbed:
        size, etag = status.st_size, self._layout.etag(status)
        if self._read(self._root + path, size) < size:
            return Scrubbed(shown(path), "unreadable", size)
        stem = OWN + digest(path)
        try:
            told = self._told(self._root + stem, etag)
        except OSError:
            return self._found(stem + HEADERS, "unreadable")
        if told is None or told == etag:
            return Scrubbed(shown(path), "ok", size)
        ours = OUR_ETAG.fullmatch(told)
        differs = ours is not None and int(ours[1], 16) != size
        return Scrubbed(shown(path), "size-differs" if differs else "sidecar-outdated", size)

    def _read(self, path: bytes, most: int) -> int:
        """Reads a file from the disk, not far beyond the size that it had; gives the number of bytes."""
        descriptor, size = os.open(path, READ), 0
        try:
            forget(descriptor, 0)
            while count := os.readv(descriptor, [self._buffer]):
                size += count
                forget(descriptor, size)
                self._pace()
                if size >= most:
                    break
            return size
        finally:
            os.close(descriptor)

    def _told(self, stem: bytes, etag: str) -> Optional[str]:
        """The ETag in the sidecar that a reader goes by; None where another tool wrote it, and where there is none."""
        for suffix in (HEADERS, NEXT, HEADERS):  # a committer may rename between two looks
            told = self._layout.lines(stem + suffix).get("etag")
            if told == etag:
                break
        return told

    # ---- Sidecars and uploads

    def _digests(self) -> Iterator[bytes]:
        """`digest/path` of all that is no folder."""
        for path in self._walk():
            self._all_walked &= not self._hides_keys(path)
            yield digest(path) + b"/" + path

    def _suspects(self, names: Iterator[bytes]) -> Iterator[bytes]:
        """Of these private names those that nothing accounts for, by a new look at all there is."""
        names = self._layout.sort(names)  # before the look: whoever stores an object has named its sidecar by then
        first = next(names, None)
        if first is None:
            return
        everything = heapq.merge([first], names, self._layout.sort(self._digests()))
        for _, group in itertools.groupby(everything, key=lambda name: name[:DIGITS]):
            alike = [(name, name[DIGITS : DIGITS + 1] == b"/") for name in group]
            path = next((name[DIGITS + 1 :] for name, is_path in alike if is_path), None)
            yield from (name for name, is_path in alike if not is_path and self._is_suspect(name, path))

    def _is_suspect(self, name: bytes, path: Optional[bytes]) -> bool:
        """`path` is what it belongs to by its name. A living process has .next locked while it stores or deletes."""
        suffix = name[DIGITS:]
        if suffix in SUSPECTS:
            if path is None:
                accounted_for = not self._all_walked
            else:
                accounted_for = suffix == HEADERS or self._is_last_step(name, path)
            if accounted_for or is_alive(self._root + OWN + name[:DIGITS] + NEXT):
                return False
        return OWN + name != UPLOADS and is_there(self._root + OWN + name)

    def _is_last_step(self, name: bytes, path: bytes) -> bool:
        """Whether this .next belongs to the content: just its renaming is missing, and readers go by it."""
        with contextlib.suppress(OSError):
            status = os.stat(self._root + path)
            return self._layout.lines(self._root + OWN + name).get("etag") == self._layout.etag(status)
        return False
