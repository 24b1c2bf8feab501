"""Faults that real servers, in processes of their own, must survive: kill -9, full and read-only disks, clients that
vanish, a second server on the same folder, files that shrink (UP-8, UP-9, UP-10, DL-6). And their memory (UP-7).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import pytest

import kcistorage
from kcistorage_parts.local import LocalDriver
from kcistorage_test.conftest import SECRET, token
from kcistorage_test.parts_at_hand import needs
from kcistorage_test.talk import FORM_TYPE, Peer, Reply, form, part

SCRIPT = Path(kcistorage.__file__).resolve()
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("KCI_STORAGE_CONFIG", "STORAGE_DEBUG")},
    "KCI_STORAGE_HOST": "127.0.0.1",
    "KCI_STORAGE_PORT": "0",
}
MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes; tmpfs gives space by the page


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Waits for what another process is about to do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.002)


def write_config(folder: Path) -> Path:
    config = folder / "config.toml"
    config.write_text(f'driver = "local"\njwt_secret = "{SECRET}"\n[local]\nstorage_path = "{folder}/storage"\n')
    return config


def announced_port(log: Path) -> Optional[int]:
    """The port that a start line names."""
    found = re.search(r'event=start .*url="http://127\.0\.0\.1:(\d+)"\n', log.read_text() if log.exists() else "")
    return int(found[1]) if found else None


class Server:
    """`python kcistorage.py` in a process of its own, over a folder that may have seen others before it."""

    def __init__(self, folder: Path, *wrapper: str) -> None:
        self.folder, self.storage = folder, folder / "storage"
        self.log = folder / f"log-{len(list(folder.glob('log-*')))}"
        command = [*wrapper, sys.executable, str(SCRIPT), "--config-file", str(write_config(folder))]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log)
        try:
            until(lambda: announced_port(self.log) is not None or self.process.poll() is not None)
            self.port = announced_port(self.log) or pytest.fail(self.log.read_text())
        except BaseException:
            self.end(signal.SIGKILL)
            raise

    def peer(self) -> Peer:
        return Peer(("127.0.0.1", self.port), 20)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that leave it as it was."""
    server = Server(tmp_path_factory.mktemp("server"))
    with server.peer() as peer:
        peer.get("/")
        files = Path(f"/proc/{server.process.pid}/fd")
        before = len(list(files.iterdir()))
    yield server
    try:
        until(lambda: len(list(files.iterdir())) < before)  # by our connection
    finally:
        code = server.end()
    assert code == 0


Begin = Callable[[Path], Server]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts servers of the test's own; none outlives it."""
    servers: list[Server] = []

    def begin_one(folder: Path) -> Server:
        servers.append(Server(folder))
        return servers[-1]

    yield begin_one
    for server in servers:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)


class Version(NamedTuple):
    """An object's content and what its uploader said of it; all of it tells the same number."""

    number: int
    size: int = 2_000

    @property
    def content(self) -> bytes:
        line = f"version {self.number:9}\n".encode()
        return line * (self.size // len(line) + 1)

    @property
    def content_type(self) -> str:
        return f"application/x-version-{self.number}"

    @property
    def email(self) -> str:
        return f"{self.number}@example.org"

    def upload(self, peer: Peer, key: str) -> Reply:
        path, _, name = key.rpartition("/")
        told = f"Content-Type-Upstream: {self.content_type}"
        return peer.upload(token(self.email), path, name, self.content, told)


def version_in(reply: Reply) -> int:
    """The number of the version that was downloaded; fails if it is not one version, whole and with its own type."""
    assert reply.status == 200
    number = int(reply.body[8:17])
    assert reply.body == reply.body[:18] * (len(reply.body) // 18)
    assert reply.fields["content-type"] == Version(number).content_type
    return number


KEY = "lab/job/x.bin"
OLD, NEW, NEWER = Version(1), Version(2), Version(3)


# ---- kill -9 at each change in the storage folder, one after the other (UP-8)


class Nursery:
    """Servers that die at a chosen change of their storage folder, one at a time; see mortal.py."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        program = [sys.executable, "-m", "kcistorage_test.mortal"]
        home, pipe = SCRIPT.parent, subprocess.PIPE
        self._process = subprocess.Popen(program, cwd=home, env=ENVIRONMENT, stdin=pipe, stdout=pipe, text=True)

    @contextlib.contextmanager
    def server(self, number: int = 0) -> Iterator[Peer]:
        """A connection to a new server, which dies at the `number`-th change, and otherwise when it is left."""
        assert self._process.stdin is not None
        log = self._folder / "log"
        log.unlink(missing_ok=True)
        arguments = [str(log), str(self._folder / "storage"), "--config-file", str(write_config(self._folder))]
        print(json.dumps([number, *arguments]), file=self._process.stdin, flush=True)
        pid = self._answer()
        try:
            until(lambda: announced_port(log) is not None)
            with Peer(("127.0.0.1", announced_port(log) or 0), 20) as peer:
                yield peer
        finally:
            os.kill(pid, signal.SIGKILL)  # one that died already is a zombie until the next line
            print(file=self._process.stdin, flush=True)
            status = self._answer()
        assert os.WIFSIGNALED(status), log.read_text()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(20) == 0
        self._process.stdout.close()


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.close()


def sidecar(storage: Path, key: str = KEY) -> Path:
    return storage / ".metadata" / f"{hashlib.sha512(key.encode()).hexdigest()}.headers"


def store(storage: Path, version: Version) -> None:
    driver = LocalDriver(str(storage))
    with driver.create(KEY) as incoming:
        incoming.write(version.content)
        incoming.commit(KEY, version.content_type, [("owner", version.email)])


def nothing_there(storage: Path) -> None:
    (storage / ".metadata/uploads").mkdir(parents=True)


def an_object_there(storage: Path) -> None:
    store(storage, OLD)


def a_crash_there(storage: Path) -> None:
    """The server before was killed just before the last change of its upload."""
    store(storage, OLD)
    sidecar(storage).rename(sidecar(storage).with_suffix(".next"))
    sidecar(storage).write_text('content-type:a/older\netag:"1-1"\n')


def owner(storage: Path) -> str:
    """As it stands in the sidecar that belongs to the content."""
    driver = LocalDriver(str(storage))
    stored = driver.open(KEY)
    assert stored is not None
    if stored.content is None:
        os.close(stored.descriptor)
    return driver.sidecar(KEY, stored.etag)["tag-owner"]


@pytest.mark.parametrize("scene", [nothing_there, an_object_there, a_crash_there])
def test_killed_at_each_change(scene: Callable[[Path], None], nursery: Nursery, tmp_path: Path) -> None:
    """UP-8: a new server finds the old object or the new one, whole, and its next upload leaves nothing of the dead."""
    storage, seen, before = tmp_path / "storage", set(), 0 if scene is nothing_there else 1
    for number in itertools.count(1):
        shutil.rmtree(storage, ignore_errors=True)
        scene(storage)
        acknowledged = False
        with nursery.server(number) as peer, contextlib.suppress(EOFError, ConnectionError):
            assert NEW.upload(peer, KEY).status == 200
            acknowledged = True
        with nursery.server() as peer:
            reply = peer.get(f"/{KEY}")
            found = version_in(reply) if reply.status == 200 else 0
            assert found in ((2,) if acknowledged else (before, 2))
            assert peer.get("/v1/list").text == (f"{KEY}\n" if found else "")
            assert not found or owner(storage) == Version(found).email
            assert list((storage / ".metadata/uploads").iterdir()) == []
            assert NEWER.upload(peer, KEY).status == 200
            assert version_in(peer.get(f"/{KEY}")) == 3
            assert peer.get("/v1/list").text == f"{KEY}\n"
        assert {path for path in storage.rglob("*") if path.is_file()} == {storage / KEY, sidecar(storage)}
        seen.add(found)
        if acknowledged:
            break
    assert number > 9, "there are more changes in an upload than that"
    assert seen == {before, 2}


# ---- kill -9 at any moment, under load


def upload_until_killed(peer: Peer, key: str, sizes: Sequence[int], done: list[int]) -> None:
    """One version after the other, each of which is noted once it is acknowledged."""
    with peer, contextlib.suppress(EOFError, ConnectionError):
        for number in itertools.count(done[-1] + 1):
            reply = Version(number, sizes[number % len(sizes)]).upload(peer, key)
            assert reply.status == 200
            done.append(number)


def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path: Path, begin: Begin) -> None:
    """UP-8: 200 means that it is safe. Each key holds what was acknowledged last, or what came after that."""
    dice = random.Random()
    keys = {"a/small": [0, 100], "a/medium": [300_000], "b/large": [3_000_000, 50]}
    done: dict[str, list[int]] = {key: [0] for key in keys}
    for _ in range(4):
        server = begin(tmp_path)
        with ThreadPoolExecutor(3) as pool:
            before = sum(map(len, done.values()))
            running = [pool.submit(upload_until_killed, server.peer(), key, keys[key], done[key]) for key in keys]
            until(lambda before=before: sum(map(len, done.values())) > before)  # type: ignore[misc]
            threading.Event().wait(dice.uniform(0, 0.15))  # any moment from here on
            server.end(signal.SIGKILL)
            for each in running:
                each.result()
    server = begin(tmp_path)
    with server.peer() as peer:
        for key in keys:
            last = done[key][-1]
            reply = peer.get(f"/{key}")
            assert (reply.status, last) == (404, 0) or version_in(reply) in (last, last + 1)
        listed = peer.get("/v1/list").text.splitlines()
        assert set(listed) <= set(keys)
        assert list((server.storage / ".metadata/uploads").iterdir()) == []
        for key in keys:
            assert OLD.upload(peer, key).status == 200
            assert version_in(peer.get(f"/{key}")) == 1
    assert server.end() == 0


# ---- A disk of our own: full, then read-only (UP-10)


class Disk:
    """A server whose storage folder is a small file system that nobody else sees."""

    MOUNT = 'mount -t tmpfs -o size=8m,nr_inodes=64 none "$0" && exec "$@"'

    def __init__(self, folder: Path, unshare: list[str]) -> None:
        self._user = ["--user", "--preserve-credentials"] if "--user" in unshare else []
        (folder / "storage").mkdir()
        self.server = Server(folder, *unshare, "sh", "-c", self.MOUNT, str(folder / "storage"))
        self.pid = self.server.process.pid
        self.root = Path(f"/proc/{self.pid}/root/{folder}/storage")  # the folder as the server sees it

    def remount(self, mode: str) -> None:
        enter = [needs("nsenter"), f"--target={self.pid}", "--mount", *self._user]
        subprocess.run([*enter, "mount", "-o", f"remount,bind,{mode}", str(self.server.storage)], check=True)

    @property
    def free(self) -> int:
        status = os.statvfs(self.root)
        return status.f_bfree * status.f_bsize

    def names(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}

    @contextlib.contextmanager
    def filled(self, leave: int = 0) -> Iterator[None]:
        """No more than `leave` bytes are free meanwhile."""
        filler = self.root / ".metadata/filler"
        with filler.open("wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, self.free - leave)
        try:
            yield
        finally:
            filler.unlink()


def unshare_command(folder: Path) -> list[str]:
    """How to get a mount table of one's own: as root, or in a user namespace where the kernel lets anybody have one."""
    for more in ([], ["--user", "--map-root-user"]):
        command = [needs("unshare"), "--mount", *more]
        mount = [*command, "mount", "-t", "tmpfs", "none", str(folder)]
        if not subprocess.run(mount, check=False, capture_output=True).returncode:
            return command
    text = "mounting a small file system is not permitted here"
    return pytest.fail(text) if os.environ.get("CI") == "true" else pytest.skip(text)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    folder = tmp_path_factory.mktemp("disk")
    disk = Disk(folder, unshare_command(folder))
    yield disk
    assert disk.server.end() == 0


def assert_says_nothing_of_the_host(reply: Reply, disk: Disk) -> None:
    """UP-10: one line, no path, no text of the system."""
    assert reply.text.isprintable()
    assert "/" not in reply.text
    assert "Errno" not in reply.text
    assert disk.server.folder.name not in reply.text


@pytest.mark.parametrize("key", [KEY, "new/folder/y.bin"])
def test_an_upload_larger_than_the_disk_is_507_and_leaves_no_trace(disk: Disk, key: str) -> None:
    with disk.server.peer() as peer:
        assert Version(1, 1_000_000).upload(peer, KEY).status == 200
        before, names, free = peer.get(f"/{KEY}"), disk.names(), disk.free
    with disk.server.peer() as peer:
        reply = Version(2, 12_000_000).upload(peer, key)
        assert reply.status == 507
        assert_says_nothing_of_the_host(reply, disk)
    with disk.server.peer() as peer:
        after = peer.get(f"/{KEY}")
        assert after._replace(fields={**after.fields, "date": ""}) == before._replace(
            fields={**before.fields, "date": ""}
        )
        assert peer.get("/v1/list").text == f"{KEY}\n"
        assert (disk.names(), disk.free) == (names, free)
        assert Version(3, 3_000_000).upload(peer, KEY).status == 200, "there is room again"
        assert version_in(peer.get(f"/{KEY}")) == 3


def test_a_disk_that_fills_up_at_any_step_of_an_upload(disk: Disk) -> None:
    """UP-10: with room for none, one, two, ... pages: for the content but not for its sidecar, for instance."""
    outcomes = []
    with disk.server.peer() as peer:
        assert OLD.upload(peer, KEY).status == 200
        names = disk.names()
        for pages in range(6):
            with disk.filled(leave=pages * PAGE):
                reply = Version(2, 2 * PAGE - 18).upload(peer, KEY)
                outcomes.append(reply.status)
                if reply.status == 507:
                    assert_says_nothing_of_the_host(reply, disk)
                    assert version_in(peer.get(f"/{KEY}")) == 1
                    assert disk.names() - {".metadata/filler"} == names
        assert version_in(peer.get(f"/{KEY}")) == 2
        assert disk.names() == names
    assert outcomes == [507, 507, 507, 200, 200, 200], "the content has two pages, and its sidecar needs one more"


def test_a_disk_without_room_for_all_folders_keeps_none_of_them(disk: Disk) -> None:
    """A file system may run out of files before it runs out of bytes."""
    with disk.server.peer() as peer:
        names = disk.names()
        reply = OLD.upload(peer, "/".join(map(str, range(100))))
        assert reply.status == 507
        assert_says_nothing_of_the_host(reply, disk)
        assert disk.names() == names
        assert OLD.upload(peer, KEY).status == 200


def test_a_read_only_disk_serves_and_refuses(disk: Disk) -> None:
    """UP-10: 503, which makes kernelci-core try again; and the operator finds the reason in the log."""
    with disk.server.peer() as peer:
        assert OLD.upload(peer, KEY).status == 200
        disk.remount("ro")
        try:
            reply = NEW.upload(peer, KEY)
            assert reply.status == 503
            assert_says_nothing_of_the_host(reply, disk)
            assert version_in(peer.get(f"/{KEY}")) == 1
        finally:
            disk.remount("rw")
        until(lambda: os.strerror(errno.EROFS) in disk.server.log.read_text())
        assert NEW.upload(peer, KEY).status == 200
        assert version_in(peer.get(f"/{KEY}")) == 2


# ---- Vanished clients (UP-8, UP-9)


def upload_head(framing: str) -> bytes:
    lines = ["POST /upload HTTP/1.1", "Host: test", f"Authorization: Bearer {token()}", FORM_TYPE, framing]
    return "\r\n".join([*lines, "", ""]).encode()


def begin_upload(server: Server, key: str) -> Peer:
    """Path and a part of the file are sent, and arrived: the key is locked."""
    path, _, name = key.rpartition("/")
    body = part("path", None, path) + part("file0", name, b"half" * 50_000)[:-2]
    peer = server.peer().send(upload_head("Content-Length: 99999999") + body)
    uploads = server.storage / ".metadata/uploads"
    until(lambda: any(path.stat().st_size for path in uploads.iterdir()))
    return peer


@pytest.mark.parametrize("farewell", ["FIN", "RST"])
def test_a_vanished_client_stores_nothing_and_frees_its_key_at_once(server: Server, farewell: str) -> None:
    """Others need not wait: neither for the 30 s of the lock nor for the 60 s of an idle body."""
    key = f"vanished/{farewell}"
    gone = begin_upload(server, key)
    if farewell == "RST":
        gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    began = time.monotonic()
    gone.socket.close()
    with server.peer() as peer:
        assert peer.get(f"/{key}").status == 404
        assert OLD.upload(peer, key).status == 200
        assert time.monotonic() - began < 5
        assert version_in(peer.get(f"/{key}")) == 1
    assert list((server.storage / ".metadata/uploads").iterdir()) == []
    assert "Traceback" not in server.log.read_text()


def test_a_vanished_overwriter_leaves_the_old_object(server: Server) -> None:
    with server.peer() as peer:
        assert OLD.upload(peer, "vanished/over").status == 200
        etag = peer.get("/vanished/over").fields["etag"]
        begin_upload(server, "vanished/over").socket.close()
        assert peer.get("/vanished/over", f"If-None-Match: {etag}").status == 304
        assert version_in(peer.get("/vanished/over")) == 1


# ---- Downloads under way (DL-6)


def begin_download(server: Server, key: str) -> tuple[Peer, dict[str, str]]:
    """The head and the first bytes have come; the rest waits in the server, with more of it than any buffer holds."""
    peer = server.peer()
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    peer.send(f"GET /{key} HTTP/1.1\r\nHost: x\r\n\r\n")
    while b"\r\n\r\n" not in peer.buffer:
        peer.buffer += peer.socket.recv(4_096)
    head, _, peer.buffer = peer.buffer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    return peer, {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}


def overwrite(server: Server, key: str) -> None:
    with server.peer() as peer:
        assert NEW.upload(peer, key).status == 200


def delete(server: Server, key: str) -> None:
    (server.storage / key).unlink()


@pytest.mark.parametrize("change", [overwrite, delete])
def test_a_download_ends_with_the_bytes_it_began_with(server: Server, change: Callable[[Server, str], None]) -> None:
    key, large = f"begun/{change.__name__}", Version(7, 30 * MIB)
    with server.peer() as peer:
        assert large.upload(peer, key).status == 200
    peer, fields = begin_download(server, key)
    change(server, key)
    with peer, server.peer() as later:
        reply = later.get(f"/{key}")
        assert reply.status == 404 if change is delete else version_in(reply) == 2
        rest = bytearray(peer.buffer)
        while len(rest) < int(fields["content-length"]):
            rest += peer.socket.recv(MIB) or pytest.fail("cut off")
        assert bytes(rest) == large.content
        assert fields["content-type"] == large.content_type


def test_a_file_that_shrinks_under_a_download_ends_it_early(server: Server) -> None:
    """Somebody truncates it by hand: the client must notice, and not be given zeros or another answer's bytes."""
    with (server.storage / "shrinks").open("wb") as file:
        file.truncate(64 * MIB)
    peer, fields = begin_download(server, "shrinks")
    assert fields["content-length"] == str(64 * MIB)
    os.truncate(server.storage / "shrinks", MIB)
    received = len(peer.buffer)
    with peer:
        while data := peer.socket.recv(MIB):
            assert not data.strip(b"\0"), "only the file's own bytes"
            received += len(data)
    assert MIB <= received < 64 * MIB
    os.unlink(server.storage / "shrinks")


# ---- Overwriting and reading without end, through one server and through two on one folder (UP-8)

KEYS = [f"churn/{number}.bin" for number in range(3)]


class Churn:
    """Writers and readers of the same few keys."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self._numbers = itertools.count(1)
        self._done = threading.Event()

    def write(self, number: int) -> set[int]:
        """30 uploads over one connection; gives the versions."""
        mine = set()
        with self._servers[number % len(self._servers)].peer() as peer:
            for turn in range(30):
                version = Version(next(self._numbers), 400_000 if turn % 3 else 3_000)
                assert version.upload(peer, KEYS[turn % len(KEYS)]).status == 200
                mine.add(version.number)
        return mine

    def read(self, number: int) -> set[tuple[str, int]]:
        """Downloads until the writers are done; gives each ETag with the version that came under it."""
        seen = set()
        with self._servers[number % len(self._servers)].peer() as peer:
            for turn in itertools.count():
                reply = peer.get(f"/{KEYS[turn % len(KEYS)]}")
                seen.add((f"{turn % len(KEYS)} {reply.fields['etag']}", version_in(reply)))
                if self._done.is_set():
                    return seen
        raise AssertionError

    def run(self) -> tuple[set[int], list[set[tuple[str, int]]]]:
        with ThreadPoolExecutor(6) as pool:
            readers = [pool.submit(self.read, number) for number in range(3)]
            writers = [pool.submit(self.write, number) for number in range(3)]
            try:
                written = [writer.result() for writer in writers]
            finally:
                self._done.set()
            return set().union(*written), [reader.result() for reader in readers]


@pytest.mark.parametrize("processes", [1, 2])
def test_overwriting_and_reading_at_once(tmp_path: Path, begin: Begin, processes: int) -> None:
    """Each download is one version, whole, with its own type; an ETag never stands for two versions."""
    servers = [begin(tmp_path) for _ in range(processes)]
    with servers[0].peer() as peer:
        for key in KEYS:
            assert Version(0).upload(peer, key).status == 200
    written, seen = Churn(servers).run()
    assert written == set(range(1, 91))
    pairs = set().union(*seen)
    assert len({etag for etag, _ in pairs}) == len(pairs), "one ETag, two contents"
    assert all(len(each) > len(KEYS) for each in seen), "a reader that saw no change tests nothing"
    for server in servers:
        with server.peer() as peer:
            assert peer.get("/v1/list").text.splitlines() == KEYS
            assert {version_in(peer.get(f"/{key}")) for key in KEYS} <= written
    assert list((tmp_path / "storage/.metadata/uploads").iterdir()) == []
    assert not list((tmp_path / "storage/.metadata").glob("*.next"))
    assert [server.end() for server in servers] == [0] * processes
    for server in servers:
        assert "Traceback" not in server.log.read_text()


# ---- How much memory it takes (UP-7)

LARGE = 300 * MIB


def memory(server: Server, name: str) -> int:
    """A size out of the process's status, in bytes: VmRSS now, VmHWM at the most so far."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def upload_zeros(server: Server, key: str, folder: Path, chunked: bool) -> Reply:
    """A large file that nobody holds: the kernel makes the zeros of a hole."""
    before, after = form(("file0", key, b"|"), ("path", None, "")).split(b"|")
    size = len(before) + LARGE + len(after)
    head = upload_head("Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}")
    with (folder / "hole").open("w+b") as hole, server.peer() as peer:
        hole.truncate(LARGE)
        peer.send(head + (b"%x\r\n" % size if chunked else b"") + before)
        peer.socket.sendfile(hole)
        return peer.send(after + (b"\r\n0\r\n\r\n" if chunked else b"")).reply()


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
def test_memory_does_not_grow_with_the_size_of_an_object(server: Server, tmp_path: Path, chunked: bool) -> None:
    """UP-7: 300 MiB up and down within 16 MiB of memory."""
    with server.peer() as peer:
        assert OLD.upload(peer, "warm").status == 200
        assert version_in(peer.get("/warm")) == 1
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # the peak counts from now on
    before = memory(server, "VmRSS")
    assert upload_zeros(server, "zeros", tmp_path, chunked).status == 200
    assert (server.storage / "zeros").stat().st_size == LARGE
    peer, fields = begin_download(server, "zeros")
    left, buffer = int(fields["content-length"]) - len(peer.buffer), bytearray(MIB)
    with peer:
        while left:
            left -= peer.socket.recv_into(buffer) or pytest.fail("cut off")
    assert memory(server, "VmHWM") - before < 16 * MIB
    (server.storage / "zeros").unlink()
