"""Objects in S3 (SO-9), which is asked first and trusted least: a real server, one that is none, and one that fails."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

import pytest

import stor
from kcistorage_parts import bucket
from kcistorage_parts.bucket import Bucket
from kcistorage_parts.fills import Rest
from kcistorage_test import seaweed
from kcistorage_test.parts_at_hand import needs_library
from kcistorage_test.test_handlers import values
from kcistorage_test.test_stor import ABSENT, CONTENT, SHA, StartStor, post, sha_of, start_stor

__all__ = ["start_stor"]  # a fixture


@pytest.fixture(scope="module")
def weed() -> Iterator[seaweed.Seaweed]:
    """A real S3 server with upstream's bucket."""
    needs_library("obstore")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seaweed, "BUCKET", "samples")
        with seaweed.running() as server:
            yield server


def s3_key(sha: str) -> str:
    return f"{sha[:2]}/{sha[2:4]}/{sha[4:6]}/{sha}"


def in_s3(weed: seaweed.Seaweed, content: bytes, sha: str = "") -> str:
    sha = sha or sha_of(content)
    assert weed.request("PUT", s3_key(sha), body=content).status == 200
    return sha


def s3_of(endpoint: str) -> dict[str, Any]:
    """The keys of the configuration."""
    host = f"http://{endpoint}"
    return {
        "s3_enabled": True,
        "s3_credentials": stor.S3Credentials(seaweed.ACCESS_KEY, seaweed.SECRET_KEY, host),
    }


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 7_000_000])
def test_an_object_that_only_s3_has(start_stor: StartStor, weed: seaweed.Seaweed, size: int) -> None:
    """SO-9: with all that SO-1 wants, however large it is."""
    content = random.Random(size).randbytes(size)
    sha = in_s3(weed, content)
    served = start_stor(**s3_of(weed.endpoint))
    with served.peer() as peer:
        reply, head = peer.get(f"/{sha.upper()}"), peer.ask("HEAD", f"/{sha}")
        assert (reply.status, reply.body == content) == (200, True)
        assert {**head.fields, "date": ""} == {**reply.fields, "date": ""}
        assert reply.fields["etag"] == f'"{sha}"'
        assert reply.fields["content-length"] == str(size)
        assert reply.fields["repr-digest"].startswith("sha-256=:")
        assert peer.get(f"/{sha}", f'If-None-Match: "{sha}"').status == 304
        if size > 10:
            for start, stop in ((0, 5), (size // 2, size // 2 + 5), (size - 5, size)):
                part = peer.get(f"/{sha}", f"Range: bytes={start}-{stop - 1}")
                assert (part.status, part.body) == (206, content[start:stop])
    assert served.files() == set()


def test_what_neither_has(start_stor: StartStor, weed: seaweed.Seaweed) -> None:
    """SO-9, SO-2."""
    with start_stor(**s3_of(weed.endpoint)).peer() as peer:
        assert peer.get(f"/{ABSENT}").text == f"File '{ABSENT}' not found"
        assert peer.ask("HEAD", f"/{ABSENT}").status == 404


def test_what_only_the_storages_have(start_stor: StartStor, weed: seaweed.Seaweed) -> None:
    """SO-9: S3 first, then they. A post goes to them."""
    content = b"only on disks"
    served = start_stor(**s3_of(weed.endpoint))
    with served.peer() as peer:
        assert post(peer, content).status == 201
        assert peer.get(f"/{sha_of(content)}").body == content
        assert peer.ask("HEAD", f"/{sha_of(content)}").status == 200
    assert weed.request("GET", s3_key(sha_of(content))).status == 404


@pytest.mark.parametrize("wrong", [b"something else", b""])
def test_wrong_content_in_s3(start_stor: StartStor, weed: seaweed.Seaweed, wrong: bytes) -> None:
    """SO-9, SO-7: what fits into the first request is hashed. It is not served, and that is told."""
    sha = in_s3(weed, wrong, sha_of(b"right" + wrong))
    served = start_stor(**s3_of(weed.endpoint))
    with served.peer() as peer:
        assert peer.get(f"/{sha}").status == 404
        assert values(served.wait_for_log("event=s3-damaged"))["key"] == s3_key(sha)
        served.by_hand(b"right" + wrong)
        assert peer.get(f"/{sha}").body == b"right" + wrong


def test_s3_that_cannot_be_reached(start_stor: StartStor) -> None:
    """SO-9: the storages serve, and that is told; for a while nobody asks S3."""
    needs_library("obstore")
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    calls.append(1)
                    connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        served = start_stor(**s3_of(f"127.0.0.1:{listener.getsockname()[1]}"))
        served.by_hand()
        with served.peer() as peer:
            assert peer.get(f"/{SHA}").body == CONTENT
            served.wait_for_log("event=s3-failed")
            asked = len(calls)
            for _ in range(5):
                assert peer.get(f"/{SHA}").body == CONTENT
                assert peer.ask("HEAD", f"/{SHA}").status == 200
                assert peer.get(f"/{ABSENT}").status == 404
        assert asked >= 1
        assert len(calls) == asked
        listener.shutdown(socket.SHUT_RDWR)
    assert sum("event=s3-failed" in line for line in served.log()) == 1


def test_s3_that_hangs(start_stor: StartStor, monkeypatch: pytest.MonkeyPatch) -> None:
    """SO-9: one reader has to wait for S3, and the next ones have not."""
    needs_library("obstore")
    monkeypatch.setattr(stor, "S3_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = start_stor(**s3_of(f"127.0.0.1:{listener.getsockname()[1]}"))
        served.by_hand()
        with served.peer() as peer:
            assert peer.get(f"/{SHA}").body == CONTENT
            served.wait_for_log("event=s3-failed")
            for _ in range(5):
                assert peer.get(f"/{SHA}").body == CONTENT
    assert sum("event=s3-failed" in line for line in served.log()) == 1


class Properties(NamedTuple):
    """What a back end says of an object."""

    size: int
    etag: str = '"v1"'
    modified: int = 1_500_000_000
    content_type: str = ""


NOTHING: Rest = (piece for piece in list[bytes]())


class FailsLater:
    """A back end that gives the first bytes of an object, and then nothing more."""

    def __init__(self, content: bytes, error: Optional[OSError]) -> None:
        self._content, self._error, self.asked = content, error, 0

    def stat(self, key: str) -> Optional[Properties]:
        return Properties(len(self._content))

    def read(self, key: str, start: int, stop: int, etag: str = "") -> Optional[tuple[Properties, bytes, Rest]]:
        self.asked += 1
        if start and self._error:
            raise self._error
        return None if start else (Properties(len(self._content)), self._content[start:stop], NOTHING)

    def close(self) -> None:
        """There is nothing."""


@pytest.mark.parametrize(
    ("error", "asked"), [(TimeoutError("slow"), 2), (OSError(errno.ESTALE, "replaced"), 2), (None, 3)], ids=str
)
def test_the_rest_comes_from_the_storages(error: Optional[OSError], asked: int) -> None:
    """SO-9: and a back end that has failed is not asked for each block of the rest; that could take hours."""
    content = os.urandom(9_000_000)
    backend, told = FailsLater(content, error), list[str]()
    one = Bucket(
        backend, "x/y", lambda sha, start, stop: content[start:stop], lambda event, **about: told.append(event)
    )
    found = one.open(sha_of(content), False)
    assert found is not None
    assert b"".join(found.blocks(0, len(content))) == content
    assert backend.asked == asked
    assert told == (["s3-failed"] if error else [])
    assert (one.open(sha_of(content), False) is None) == (error is not None)


def test_s3_is_asked_again_after_its_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"x" * 100_000
    backend = FailsLater(content, TimeoutError())
    one = Bucket(backend, "x/y", lambda sha, start, stop: content[start:stop])
    found = one.open(sha_of(content), False)
    assert found is not None
    assert b"".join(found.blocks(0, len(content))) == content
    assert one.open(sha_of(content), True) is None
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + bucket.RESTING_SECONDS + 1)
    assert one.open(sha_of(content), True) is not None


def test_s3_dies_in_the_middle_of_a_large_object(start_stor: StartStor, weed: seaweed.Seaweed) -> None:
    """SO-9: without a wrong byte, the rest comes from the storages. What only S3 has ends before its end."""
    both, lone = (random.Random(number).randbytes(24_000_000) for number in (1, 2))
    served = start_stor(**s3_of(weed.endpoint))
    served.by_hand(both)
    for content in (both, lone):
        in_s3(weed, content)
    with served.peer(30) as one, served.peer(30) as two:
        for peer, content in ((one, both), (two, lone)):
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            peer.send(f"GET /{sha_of(content)} HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer._until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
            assert peer.take(100_000) == content[:100_000]
        weed.kill()
        assert one.take(len(both) - 100_000) == both[100_000:]
        assert one.get(f"/{sha_of(b'')}").status == 404, "the connection goes on"
        rest = two.rest()
        assert rest == lone[100_000 : 100_000 + len(rest)]
        assert len(rest) < len(lone) - 100_000
    served.wait_for_log("event=s3-failed")
    served.wait_for_log("reason=answer-broken")
