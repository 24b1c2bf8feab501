"""POST /v1/archive (AR-1 to AR-3): conversations with a whole server. What is an archive at all: test_archives.py."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

import kcistorage
from kcistorage import LimitOptions
from kcistorage_parts import archives
from kcistorage_parts.settings import ConfigError
from kcistorage_test.conftest import EMAIL, Running, Start, token
from kcistorage_test.parts_at_hand import needs
from kcistorage_test.talk import FORM_TYPE, Field, Reply, form

File = tuple[str, bytes]
FILES: Sequence[File] = (("dtbs/a.dtb", b"first"), ("dtbs/vendor/b.dtb", b"second" * 10_000), ("empty", b""))


def tar(files: Sequence[File], mode: str = "w", **changes: Any) -> bytes:
    """An archive; `changes` are made to its last member."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for number, (name, content) in enumerate(files, 1):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for change, value in changes.items() if number == len(files) else ():
                setattr(member, change, value)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


GOOD = tar(FILES)


def send(server: Running, *fields: Field, bearer: Optional[str] = None) -> Reply:
    credential = token() if bearer is None else bearer
    with server.peer() as peer:
        return peer.ask("POST", "/v1/archive", f"Authorization: Bearer {credential}", FORM_TYPE, body=form(*fields))


def archive(content: bytes, filename: str = "x.tar", path: str = "job") -> tuple[Field, Field]:
    return ("path", None, path), ("archive", filename, content)


def report(reply: Reply) -> dict[str, Any]:
    assert reply.fields["content-type"] == "application/json"
    found: dict[str, Any] = json.loads(reply.body)
    assert set(found) == {"status", "uploaded", "failed", "bytes", "prefix", "failures"}
    assert found["failed"] == len(found["failures"])
    return found


def refused(reply: Reply, *statuses: int) -> str:
    """The one failure of an archive of which nothing was stored."""
    found = report(reply)
    assert reply.status in statuses
    assert (found["status"], found["uploaded"], found["failed"], found["bytes"]) == ("error", 0, 1, 0)
    failure: str = found["failures"][0]
    return failure


def stored(server: Running) -> dict[str, bytes]:
    files = (path for path in server.storage.rglob("*") if path.is_file() and ".metadata" not in path.parts)
    return {path.relative_to(server.storage).as_posix(): path.read_bytes() for path in files}


# ---- What is stored: AR-1


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("path_first", [True, False])
def test_every_regular_file_is_stored_under_the_path(server: Running, mode: str, path_first: bool) -> None:
    fields = archive(tar(FILES, mode), f"X.TAR{mode[1:].replace(':', '.')}")
    reply = send(server, *(fields if path_first else fields[::-1]))
    assert reply.status == 200
    size = sum(len(content) for _, content in FILES)
    expected = {"status": "ok", "uploaded": 3, "failed": 0, "bytes": size, "prefix": "job", "failures": []}
    assert report(reply) == expected
    assert stored(server) == {f"job/{name}": content for name, content in FILES}
    with server.peer() as peer:
        got = peer.get("/job/dtbs/a.dtb")
        assert (got.status, got.body) == (200, b"first")


def test_files_are_stored_like_single_uploads(start: Start) -> None:
    """UP-6, UP-12: owner, tags, type; the type of the archive is not theirs."""
    server = start(retention=kcistorage.Retention(tag_value="6m"))
    assert send(server, *archive(tar([("boot.log", b"text")]))).status == 200
    (sidecar,) = (server.storage / ".metadata").glob("*.headers")
    lines = sidecar.read_text().splitlines()
    assert {"content-type:text/plain", f"tag-owner:{EMAIL}", "tag-retention:6m"} <= set(lines)


def test_an_archive_as_kernelci_core_packs_it(server: Running, tmp_path: Path) -> None:
    """AR-2: entries for folders are skipped."""
    folder = tmp_path / "dtbs" / "arm"
    folder.mkdir(parents=True)
    for number in range(30):
        (folder / f"board-{number}.dtb").write_bytes(os.urandom(2_048))
    packed = tmp_path / "dtbs.tar.xz"
    subprocess.run([needs("tar"), "cJf", packed, "-C", tmp_path, "./dtbs"], check=True)
    assert report(send(server, *archive(packed.read_bytes(), "dtbs.tar.xz", "/job/")))["uploaded"] == 30
    assert stored(server) == {f"job/dtbs/arm/{path.name}": path.read_bytes() for path in folder.iterdir()}


def test_an_archive_as_git_writes_it(server: Running, tmp_path: Path) -> None:
    """AR-2: the pax header with the commit is skipped."""
    git = [needs("git"), "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "README").write_text("hello")
    subprocess.run([*git, "add", "README"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    packed = subprocess.run([*git, "archive", "--prefix=v1/", "HEAD"], check=True, stdout=subprocess.PIPE).stdout
    assert b"pax_global_header" in packed
    assert send(server, *archive(packed)).status == 200
    assert stored(server) == {"job/v1/README": b"hello"}


def test_of_two_members_of_one_name_the_last_one_counts(server: Running) -> None:
    """As when tar unpacks it."""
    assert report(send(server, *archive(tar([("a", b"old"), ("./a", b"new")]))))["uploaded"] == 1
    assert stored(server) == {"job/a": b"new"}


def test_an_archive_replaces_what_was_there(server: Running) -> None:
    for content in (b"old", b"new"):
        assert send(server, *archive(tar([("a", content)]))).status == 200
    assert stored(server) == {"job/a": b"new"}


# ---- What is refused, and then nothing is stored (AR-2, AR-3)

BAD: dict[str, tuple[bytes, str]] = {
    "absolute": (tar([("a", b"x"), ("/etc/passwd", b"x")]), "x.tar"),
    "above": (tar([("a", b"x"), ("b/../../c", b"x")]), "x.tar"),
    "symlink": (tar([("a", b"x"), ("b", b"")], type=tarfile.SYMTYPE, linkname="a"), "x.tar"),
    "hard link": (tar([("a", b"x"), ("b", b"")], type=tarfile.LNKTYPE, linkname="a"), "x.tar"),
    "device": (tar([("a", b"x"), ("b", b"")], type=tarfile.CHRTYPE), "x.tar"),
    "fifo": (tar([("a", b"x"), ("b", b"")], type=tarfile.FIFOTYPE), "x.tar"),
    "only folders": (tar([("a", b"")], type=tarfile.DIRTYPE), "x.tar"),
    "control character": (tar([("a", b"x"), ("b\nc", b"x")]), "x.tar"),
    "a name too long": (tar([("a", b"x"), ("b" * 300, b"x")]), "x.tar"),
    "zip": (tar([("a", b"x")]), "x.zip"),
    "not an archive": (b"#!/bin/sh\n" * 100, "x.tar"),
    "not compressed": (GOOD, "x.tar.gz"),
    "cut": (GOOD[: len(GOOD) // 2], "x.tar"),
    "cut at a member": (GOOD[:1_024], "x.tar"),
    "empty": (b"", "x.tar"),
    "unknown": (GOOD, "x.rar"),
    "file as folder": (tar([("a", b"x"), ("a/b", b"x")]), "x.tar"),
}


@pytest.mark.parametrize(("content", "filename"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("path_first", [True, False])
def test_a_bad_archive_stores_nothing(server: Running, content: bytes, filename: str, path_first: bool) -> None:
    fields = archive(content, filename)
    text = refused(send(server, *(fields if path_first else fields[::-1])), 400, 409)
    assert re.fullmatch("[ -~]+", text)
    assert str(server.storage) not in text
    assert stored(server) == {}
    assert list((server.storage / ".metadata").glob("*.*")) == []


@pytest.mark.parametrize(
    "fields",
    [
        [("path", None, "job")],
        [("path", None, "job"), ("archive", None, GOOD)],
        [*archive(GOOD), ("archive", "y.tar", GOOD)],
        [*archive(GOOD), ("path", None, "other")],
        archive(GOOD, path="../x"),
        archive(GOOD, path=".metadata"),
        archive(tar([("list", b"x")]), path="v1"),
    ],
    ids=["no archive", "no filename", "two archives", "two paths", "path above", "private", "a route"],
)
def test_a_bad_form_stores_nothing(server: Running, fields: Sequence[Field]) -> None:
    refused(send(server, *fields), 400)
    assert stored(server) == {}


def test_who_may_not_is_told_in_json(start: Start) -> None:
    """AU-5, AU-6, AR-2"""
    server = start(users=(kcistorage.User(EMAIL, ("mine/",)),))
    assert refused(send(server, *archive(GOOD), bearer="nonsense"), 401) == "Unauthorized"
    assert EMAIL in refused(send(server, *archive(GOOD)), 403)
    assert stored(server) == {}
    assert send(server, *archive(GOOD, path="mine/job")).status == 200


LIMITS = archives.Limits(files=3, file_bytes=1_000, total_bytes=20_000)
TOO_MUCH = {
    "files": tar([(f"{number}", b"x") for number in range(4)]),
    "file": tar([("a", b"x" * 1_001)]),
}


@pytest.mark.parametrize("kind", ["files", "file"])
def test_limits(server: Running, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """AR-3"""
    handler = server.server.site._routes["/v1/archive"]["POST"]
    monkeypatch.setattr(handler, "_limits", LIMITS)
    refused(send(server, *archive(TOO_MUCH[kind])), 413)
    assert stored(server) == {}
    assert send(server, *archive(tar([("a", b"x" * 1_000)] * 3))).status == 200


def test_a_bomb_is_refused_by_what_it_unpacks_to(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """AR-3: 30 MB of zeros in 5 KB; a lying header would be no help to it."""
    handler = server.server.site._routes["/v1/archive"]["POST"]
    monkeypatch.setattr(handler, "_limits", archives.Limits(total_bytes=10 << 20))
    bomb = tar([("zeros", bytes(30 << 20))], "w:xz")
    assert len(bomb) < 10_000
    refused(send(server, *archive(bomb, "x.tar.xz")), 413)
    assert stored(server) == {}


# ---- Some files cannot be stored


def test_what_could_be_stored_is_and_the_rest_is_named(server: Running) -> None:
    """AR-3"""
    (server.storage / "job" / "b" / "c").mkdir(parents=True)
    (server.storage / "job" / "b" / "c" / "d").write_bytes(b"there")
    reply = send(server, *archive(tar([("a", b"first"), ("b", b"second"), ("c", b"third")])))
    found = report(reply)
    assert (reply.status, found["status"], found["uploaded"], found["bytes"]) == (500, "partial_failure", 2, 10)
    assert found["failures"] == ["job/b: Path conflicts with an existing object"]
    assert stored(server) == {"job/a": b"first", "job/b/c/d": b"there", "job/c": b"third"}
    assert "reason=archive-partial" in server.wait_for_log("archive-partial")


def test_if_nothing_can_be_stored_the_status_says_why(server: Running) -> None:
    (server.storage / "job" / "b" / "c").mkdir(parents=True)
    (server.storage / "job" / "b" / "c" / "d").write_bytes(b"there")
    assert "conflicts" in refused(send(server, *archive(tar([("b", b"second")]))), 409)


def test_a_key_under_upload_is_waited_for(start: Start) -> None:
    """UP-9: each file has the lock of a single upload."""
    server = start(limits=LimitOptions(lock_seconds=0.2))
    body = form(("path", None, "job"), ("file0", "a", b"x" * 100))
    with server.peer() as peer:
        head = f"POST /upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n{FORM_TYPE}\r\n"
        peer.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-60])
        uploads = server.storage / ".metadata" / "uploads"
        while not list(uploads.iterdir()):
            threading.Event().wait(0.005)
        assert "Timeout" in refused(send(server, *archive(tar([("a", b"new")]))), 409)
        assert peer.send(body[-60:]).reply().status == 200


def test_no_room_for_the_spool_is_507(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-10"""

    def full(*_: object, **__: object) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert refused(send(server, *archive(GOOD)), 507) == "Insufficient Storage"


def test_too_many_archives_at_once_are_told_to_wait(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kcistorage.Archive, "MOST_AT_ONCE", 1)
    server = start(limits=LimitOptions(lock_seconds=0.2))
    body = form(*archive(GOOD))
    with server.peer() as peer:
        head = f"POST /v1/archive HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n{FORM_TYPE}\r\n"
        peer.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-2_000])
        slots = server.server.site._routes["/v1/archive"]["POST"]._unpacking  # type: ignore[attr-defined]
        while slots._value:
            threading.Event().wait(0.005)
        refused(send(server, *archive(GOOD)), 503)
        assert peer.send(body[-2_000:]).reply().status == 200
    assert send(server, *archive(GOOD)).status == 200


@pytest.mark.parametrize("told", ["7", "0"])
def test_the_parallelism_can_be_set_in_the_environment(told: str) -> None:
    """AR-3"""
    config = kcistorage.with_environment(kcistorage.Config(), {"KCI_STORAGE_ARCHIVE_PARALLELISM": told})
    assert config.limits.archive_parallelism == int(told)


@pytest.mark.parametrize("told", ["", "-1", "many", "1e3", "10000"])
def test_a_parallelism_that_is_none_stops_the_start(told: str) -> None:
    with pytest.raises(ConfigError, match="KCI_STORAGE_ARCHIVE_PARALLELISM"):
        kcistorage.with_environment(kcistorage.Config(), {"KCI_STORAGE_ARCHIVE_PARALLELISM": told})
