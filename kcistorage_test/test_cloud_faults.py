"""Whole servers over a real blob service (Azurite), which fails, hangs, lies, is killed and comes back.

(UP-8 to UP-10, DL-6, DL-7, CH-2, LS-1.) A client hears 200 or a refusal in one line, an object is old or new, and no
server needs a restart.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, NamedTuple, Optional
from urllib.parse import parse_qs, urlsplit

import pytest

import kcistorage
from kcistorage_parts import azure, cloud, fills, leases
from kcistorage_parts.azure import AzureBackend
from kcistorage_parts.cache import Cache, Copy
from kcistorage_parts.fills import FIRST_BYTES
from kcistorage_test import azurite
from kcistorage_test.azurite import ACCOUNT, Azurite
from kcistorage_test.conftest import Running, Start, token
from kcistorage_test.faulty import (
    Fault,
    Faulty,
    Heard,
    be_silent,
    cut,
    lose_answer,
    misstate_length,
    reset,
    say,
)
from kcistorage_test.parts_at_hand import needs_library
from kcistorage_test.talk import FORM_TYPE, Peer, Reply, form

BLOCK = 1 << 19  # bytes, up and down; smaller than in earnest, for there are many tests
KEY = "job/x.bin"


def some_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, "big")


OLD, SMALL = some_bytes(1_000, 1), some_bytes(2_000, 2)
LARGE = some_bytes(2 * BLOCK + BLOCK // 2, 3)  # three blocks up, and down one more: the first bytes


# ---- Servers, and what is behind them


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure, "FIRST_PAUSE_SECONDS", 0.01)
    for module in (fills, cloud):
        monkeypatch.setattr(module, "FETCH_BYTES", BLOCK)
    monkeypatch.setattr(AzureBackend, "BLOCK_BYTES", BLOCK)


@pytest.fixture(scope="module")
def url() -> str:
    needs_library("azure.storage.blob")
    return azurite.running()


@pytest.fixture
def container(url: str) -> str:
    return azurite.new_container(url)


@pytest.fixture
def proxy(url: str) -> Iterator[Faulty]:
    proxy = Faulty(url)
    yield proxy
    proxy.close()


class Limits(NamedTuple):
    """What a test may change."""

    backend_seconds: float = 10.0
    lock_seconds: float = 30.0
    revalidate_seconds: float = 60.0


Begin = Callable[..., Running]
LIMITS = Limits()


@pytest.fixture
def begin(start: Start, container: str) -> Iterator[Begin]:
    """Starts servers: `begin(url, Limits(...))`. None may say what is secret, or have a fault of ours."""
    running: list[Running] = []

    def begin_one(url: str, limits: Limits = LIMITS, container: str = container) -> Running:
        account = kcistorage.Azure(ACCOUNT, azurite.KEY, container, "", url)
        some = kcistorage.LimitOptions(backend_seconds=limits.backend_seconds, lock_seconds=limits.lock_seconds)
        options = kcistorage.CacheOptions(revalidate_seconds=limits.revalidate_seconds)
        running.append(start(driver="azure", azure=account, limits=some, cache=options))
        return running[-1]

    yield begin_one
    for server in running:
        log = server.log_path.read_text()
        for secret in (azurite.KEY, "sig=", token()):
            assert secret not in log
        assert "reason=internal-error" not in log
        assert "reason=housekeeping-failed" not in log


def put(server: Running, data: bytes, key: str = KEY) -> Reply:
    path, _, name = key.rpartition("/")
    with server.peer(30) as peer:
        return peer.upload(token(), path, name, data)


def get(server: Running, *fields: str, key: str = KEY) -> Reply:
    with server.peer(30) as peer:
        return peer.get(f"/{key}", *fields)


def content(server: Running, key: str = KEY) -> bytes:
    reply = get(server, key=key)
    assert reply.status == 200, reply
    return reply.body


def store(url: str, container: str, data: bytes, key: str = KEY) -> None:
    """Another program puts an object there."""
    with azurite.client(url, container) as client:
        client.upload_blob(key, data, overwrite=True)


def stored(url: str, container: str, key: str = KEY) -> bytes:
    """The object as any other program sees it."""
    with azurite.client(url, container) as client:
        data: bytes = client.download_blob(key).readall()
    return data


def visible(url: str, container: str) -> list[str]:
    """All objects, ours too."""
    with azurite.client(url, container) as client:
        return [blob.name for blob in client.list_blobs()]


def copies(server: Running) -> int:
    return len(list((server.folder / "cache").rglob("*.content")))


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits for what another thread is about to do, and tells nobody of."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.005)


def refused(reply: Reply, status: int) -> None:
    """UP-10, DL-7: the status, and one line that says nothing of where we keep what."""
    assert reply.status == status, reply
    assert reply.fields["content-type"].startswith("text/plain")
    assert 0 < len(reply.text) < 80
    assert not any(sign in reply.text for sign in ("\n", "/", "127.0.0.1", ACCOUNT, "Error"))


def is_put(heard: Heard) -> bool:
    return (heard.method, heard.key, heard.comp) == ("PUT", KEY, "")


def is_block(heard: Heard) -> bool:
    return heard.comp == "block"


def is_commit(heard: Heard) -> bool:
    return heard.comp == "blocklist"


def is_read(heard: Heard) -> bool:
    return (heard.method, heard.key) == ("GET", KEY)


def is_later_read(heard: Heard) -> bool:
    return is_read(heard) and heard.start >= BLOCK


def is_stat(heard: Heard) -> bool:
    return (heard.method, heard.key) == ("HEAD", KEY)


def is_lock_name(name: str) -> bool:
    return name.startswith(leases.LOCKS) and not name.startswith(f"{leases.LOCKS}probe-")


# ---- Failures that pass, and failures that stay (UP-10, DL-7)

BUSY, THROTTLED, REFUSED = say(503, "ServerBusy"), say(429, "TooManyRequests"), say(403)


@pytest.mark.parametrize(
    ("hits", "data", "fault"),
    [
        pytest.param(is_put, SMALL, BUSY, id="put 503"),
        pytest.param(is_put, SMALL, lose_answer, id="put lost"),
        pytest.param(is_block, LARGE, THROTTLED, id="block 429"),
        pytest.param(is_block, LARGE, reset, id="block reset"),
        pytest.param(is_commit, LARGE, BUSY, id="commit 503"),
        pytest.param(is_commit, LARGE, lose_answer, id="commit lost"),
    ],
)
def test_an_upload_survives_a_failure_that_passes(
    begin: Begin, proxy: Faulty, url: str, container: str, hits: Callable[[Heard], bool], data: bytes, fault: Fault
) -> None:
    """UP-8: 200, and the object is there once and whole, for this server and for others."""
    server = begin(proxy.url)
    proxy.order(hits, fault, times=2)
    reply = put(server, data)
    assert (reply.status, reply.body) == (200, b"")
    assert stored(url, container) == data
    assert content(server) == data
    assert get(server).fields["etag"] == reply.fields["etag"]


@pytest.mark.parametrize(
    ("hits", "data", "fault", "status"),
    [
        pytest.param(is_put, SMALL, BUSY, 503, id="put 503"),
        pytest.param(is_put, SMALL, reset, 502, id="put reset"),
        pytest.param(is_block, LARGE, BUSY, 503, id="block 503"),
        pytest.param(is_block, LARGE, REFUSED, 503, id="block 403"),
        pytest.param(is_commit, LARGE, reset, 502, id="commit reset"),
    ],
)
def test_an_upload_does_not_survive_a_failure_that_stays(
    begin: Begin,
    proxy: Faulty,
    url: str,
    container: str,
    hits: Callable[[Heard], bool],
    data: bytes,
    fault: Fault,
    status: int,
) -> None:
    """UP-8, UP-10: never a 200; the old object is intact, and what comes next is served."""
    server = begin(proxy.url)
    assert put(server, OLD).status == 200
    proxy.order(hits, fault)
    refused(put(server, data), status)
    assert content(server) == OLD
    proxy.recover()
    until(lambda: visible(url, container) == [KEY])  # the lock goes a moment later
    assert put(server, data).status == 200
    assert content(server) == data


@pytest.mark.parametrize(("hits", "data"), [(is_put, SMALL), (is_commit, LARGE)], ids=["put", "commit"])
def test_an_upload_whose_end_nobody_knows(
    begin: Begin, proxy: Faulty, hits: Callable[[Heard], bool], data: bytes
) -> None:
    """UP-8, CH-2: it is stored, and the client told that it may not be; the copy of the old version is not served."""
    server = begin(proxy.url)
    assert put(server, OLD).status == 200
    proxy.order(hits, lose_answer)
    refused(put(server, data), 502)
    assert content(server) == data


@pytest.mark.parametrize(
    ("hits", "fault"),
    [(is_read, BUSY), (is_read, cut(1_000)), (is_later_read, reset), (is_later_read, cut(0)), (is_later_read, cut(9))],
    ids=["first 503", "first cut", "later reset", "later empty", "later cut"],
)
def test_a_download_survives_a_failure_that_passes(
    begin: Begin, proxy: Faulty, url: str, container: str, fault: Fault, hits: Callable[[Heard], bool]
) -> None:
    """DL-7"""
    store(url, container, LARGE)
    server = begin(proxy.url)
    proxy.order(hits, fault, times=2)
    assert content(server) == LARGE
    until(lambda: copies(server) == 1)
    assert content(server) == LARGE


@pytest.mark.parametrize(
    ("fault", "status"),
    [(BUSY, 503), (reset, 502), (cut(1_000), 502), (REFUSED, 503), (say(404, "ContainerNotFound"), 503)],
    ids=["503", "reset", "cut", "403", "no container"],
)
def test_a_cold_object_that_cannot_be_had(
    begin: Begin, proxy: Faulty, url: str, container: str, fault: Fault, status: int
) -> None:
    """DL-7: a refusal, and not a 404; then all is well again."""
    store(url, container, SMALL)
    server = begin(proxy.url)
    proxy.order(is_read, fault)
    refused(get(server), status)
    assert copies(server) == 0
    proxy.recover()
    assert content(server) == SMALL


@pytest.mark.parametrize("fault", [BUSY, reset, cut(1_000), misstate_length(9)], ids=["503", "reset", "cut", "length"])
def test_a_download_that_breaks_in_the_middle(
    begin: Begin, proxy: Faulty, url: str, container: str, fault: Fault
) -> None:
    """DL-7: the client has the object's own bytes, and sees that they are not all; nothing of it is kept."""
    store(url, container, LARGE)
    server = begin(proxy.url)
    proxy.order(is_later_read, fault)
    with server.peer() as peer:
        peer.send(f"GET /{KEY} HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(EOFError):
            peer.reply()
        received = peer.buffer  # of the body
    assert FIRST_BYTES <= len(received) < len(LARGE)
    assert LARGE.startswith(received)
    server.wait_for_log("reason=answer-broken")
    assert copies(server) == 0
    proxy.recover()
    assert content(server) == LARGE


@pytest.mark.parametrize("more", [1, -1_000])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_wrong_length_is_never_believed(
    begin: Begin, proxy: Faulty, url: str, container: str, more: int, data: bytes
) -> None:
    """DL-7: it is asked for again, and if that does not help, refused."""
    store(url, container, data)
    server = begin(proxy.url)
    proxy.order(is_read, misstate_length(more), times=2)
    proxy.order(lambda heard: is_read(heard) and heard.start == FIRST_BYTES, misstate_length(more), times=2)
    assert content(server) == data
    store(url, container, data, "job/other")
    proxy.order(lambda heard: heard.key == "job/other", misstate_length(more))
    refused(get(server, key="job/other"), 502)
    until(lambda: copies(server) == 1)


def test_a_head_and_a_validation_that_fail(begin: Begin, proxy: Faulty, url: str, container: str) -> None:
    """DL-7, CH-2: cold, refused; cached, trusted, unless each is to be asked for."""
    store(url, container, OLD)
    server, strict = begin(proxy.url, Limits(revalidate_seconds=0.001)), begin(proxy.url, Limits(revalidate_seconds=0))
    proxy.order(is_stat, BUSY)
    with server.peer() as peer:
        assert peer.ask("HEAD", f"/{KEY}").status == 503
    assert content(server) == OLD
    until(lambda: copies(server) == 1)
    assert content(server) == OLD
    assert server.wait_for_log("event=backend-failed")
    assert content(strict) == OLD
    refused(get(strict), 503)


# ---- Silence


def seconds_of(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_a_silent_service(begin: Begin, proxy: Faulty, url: str, container: str) -> None:
    """UP-10, DL-7: refused when all attempts are used up, and that for all who ask at once."""
    server = begin(proxy.url, Limits(backend_seconds=0.25))
    assert put(server, OLD).status == 200
    proxy.order(lambda heard: True, be_silent)
    calls: list[Callable[[], None]] = [
        lambda: refused(put(server, SMALL), 503),
        lambda: refused(put(server, LARGE, "job/other"), 503),
        lambda: refused(get(server, key="cold"), 503),
        lambda: refused(get(server, key="v1/list"), 503),
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        took = list(pool.map(seconds_of, calls))
    assert min(took) >= 4 * 0.25
    assert max(took) < 4 * 0.25 + 2
    assert content(server) == OLD  # the copy
    proxy.recover()
    assert stored(url, container) == OLD
    assert put(server, LARGE).status == 200
    assert content(server) == LARGE


def test_first_uploads_to_a_silent_service(begin: Begin, proxy: Faulty) -> None:
    """UP-10: they do not wait in line to find out whether it locks."""
    server = begin(proxy.url, Limits(backend_seconds=0.25))
    proxy.order(lambda heard: True, be_silent)
    with ThreadPoolExecutor(4) as pool:
        calls = [lambda number=number: refused(put(server, SMALL, f"job/{number}"), 503) for number in range(4)]
        took = list(pool.map(seconds_of, calls))
    assert max(took) < 4 * 0.25 + 2


def test_a_silence_that_passes(begin: Begin, proxy: Faulty, url: str, container: str) -> None:
    """UP-8, DL-7"""
    server = begin(proxy.url, Limits(backend_seconds=0.5))
    for hits in (is_block, is_commit, is_later_read):
        proxy.order(hits, be_silent, times=1)
    assert put(server, LARGE).status == 200
    assert stored(url, container) == LARGE
    assert content(begin(proxy.url, Limits(backend_seconds=0.5))) == LARGE
    assert len([heard for heard in proxy.heard if is_commit(heard)]) == 2


# ---- A service that is not there, dies, and comes back


class Mortal:
    """An Azurite of our own that keeps what it has: a container with three objects, whatever becomes of it."""

    def __init__(self, folder: Path) -> None:
        self._azurite = Azurite(folder)
        self.url = self._azurite.url
        self.container = azurite.new_container(self.url)
        for key, data in (("old", OLD), ("large", LARGE), ("prey", OLD)):
            store(self.url, self.container, data, key)
        self.stop()

    @property
    def running(self) -> bool:
        return self._azurite.process.poll() is None

    def start(self) -> None:
        if not self.running:
            self._azurite.start()

    def stop(self) -> None:
        """In good order: it saves what it has."""
        if self.running:
            self._azurite.stop()

    def kill(self) -> None:
        self._azurite.kill()


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    needs_library("azure.storage.blob")
    if os.environ.get("AZURITE_URL"):
        pytest.skip("AZURITE_URL names one that is not ours to kill")
    mortal = Mortal(tmp_path_factory.mktemp("azurite"))
    yield mortal
    if mortal.running:
        mortal.kill()


def test_a_service_that_comes_after_the_server(begin: Begin, mortal: Mortal) -> None:
    """UP-10, DL-7: the server starts, refuses, and needs no restart when the service is there."""
    mortal.stop()
    server = begin(mortal.url, container=mortal.container)
    assert "does not answer yet" in server.wait_for_log("event=warning")
    refused(get(server, key="old"), 502)
    refused(put(server, SMALL), 502)
    refused(put(server, LARGE), 502)
    refused(get(server, key="v1/list"), 502)
    assert get(server, key="").status == 200
    mortal.start()
    assert content(server, "old") == OLD
    assert put(server, LARGE).status == 200
    assert stored(mortal.url, mortal.container) == LARGE
    assert get(server, key="v1/list").text.split() == [KEY, "large", "old", "prey"]


def begin_upload(peer: Peer, body: bytes, size: int) -> None:
    """The beginning of an upload, of `size` bytes in all."""
    lines = ["POST /upload HTTP/1.1", "Host: x", f"Authorization: Bearer {token()}", FORM_TYPE]
    peer.send("\r\n".join([*lines, f"Content-Length: {size}", "", ""]).encode() + body)


def test_a_service_that_is_killed(begin: Begin, mortal: Mortal, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP-8, DL-7: during a download, which then goes on, and during an upload, which then is all or nothing."""
    monkeypatch.setattr(azure, "FIRST_PAUSE_SECONDS", 0.5)  # the attempts have to last for a restart
    body, half = form(("path", None, ""), ("file0", "prey", LARGE)), BLOCK + BLOCK // 2
    mortal.start()
    with contextlib.closing(Faulty(mortal.url)) as proxy:
        server = begin(proxy.url, container=mortal.container)
        gate = proxy.gate(lambda heard: heard.method == "GET" and heard.start >= FIRST_BYTES)
        with server.peer(30) as reader, server.peer(30) as writer:
            reader.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            gate.await_arrivals()
            begin_upload(writer, body[:half], len(body))
            until(lambda: any(map(is_block, proxy.heard)))
            mortal.kill()
            gate.open()
            mortal.start()
            assert reader.reply().body == LARGE
            reply = writer.send(body[half:]).reply()
        if reply.status != 200:
            refused(reply, 502 if reply.status == 502 else 503)
        now = LARGE if reply.status == 200 else OLD
        assert stored(mortal.url, mortal.container, "prey") == now
        assert content(server, "prey") == now
        assert put(server, SMALL, "prey").status == 200
        assert stored(mortal.url, mortal.container, "prey") == SMALL


# ---- Two servers on one container (UP-9, CH-2)

ASKING = Limits(revalidate_seconds=0)
TWICE = LARGE + LARGE  # half of it is more than a block


@contextlib.contextmanager
def half_an_upload(server: Running, url: str, data: bytes = TWICE) -> Iterator[Callable[[], Reply]]:
    """An upload of KEY that has the lock, and sends the rest when it is told to; else its client vanishes."""
    body = form(("path", None, "job"), ("file0", "x.bin", data))
    with server.peer(30) as peer:
        begin_upload(peer, body[: len(body) // 2], len(body))
        until(lambda: any(is_lock_name(name) for name in visible(url, server.config.azure.container)))
        yield lambda: peer.send(body[len(body) // 2 :]).reply()


def claims(proxy: Faulty) -> int:
    return len([heard for heard in proxy.heard if heard.method == "PUT" and is_lock_name(heard.key)])


def test_uploads_of_one_key_take_turns(begin: Begin, proxy: Faulty, url: str, container: str) -> None:
    """UP-9: the second one waits, and is the one that stays."""
    one, other = begin(url, ASKING), begin(proxy.url, ASKING)
    with half_an_upload(one, url) as end, ThreadPoolExecutor(1) as pool:
        second = pool.submit(put, other, SMALL)
        until(lambda: claims(proxy) >= 3)
        assert KEY not in visible(url, container)
        first = end()
        assert first.status == 200
        assert second.result(20).status == 200
    assert first.fields["etag"] != second.result().fields["etag"]
    assert content(one) == content(other) == stored(url, container) == SMALL


def test_an_upload_that_waits_for_too_long(begin: Begin, url: str, container: str) -> None:
    """UP-9: 409, as on one server; other keys do not wait."""
    one, other = begin(url, ASKING), begin(url, ASKING._replace(lock_seconds=0.3))
    with half_an_upload(one, url) as end:
        reply = put(other, SMALL)
        assert (reply.status, reply.text) == (409, "Timeout waiting for upload")
        assert put(other, SMALL, "job/other").status == 200
        assert end().status == 200
    assert content(one) == content(other) == stored(url, container) == TWICE


def test_many_uploads_of_one_key(begin: Begin, url: str, container: str) -> None:
    """UP-8, UP-9: each is told 200, and one of them is there, whole, with the ETag that its client was told."""
    servers = [begin(url, ASKING), begin(url, ASKING)]
    contents = [some_bytes(size, size) for size in (1_000, BLOCK, BLOCK + 1, 30_000, 5 * BLOCK, 0)]
    with ThreadPoolExecutor(len(contents)) as pool:
        replies = list(pool.map(put, itertools.cycle(servers), contents))
    assert [reply.status for reply in replies] == [200] * len(contents)
    left = stored(url, container)
    etag = replies[contents.index(left)].fields["etag"]
    for server in servers:
        reply = get(server)
        assert (reply.body, reply.fields["etag"]) == (left, etag)


def test_an_overwrite_through_another_server_is_seen(begin: Begin, proxy: Faulty, url: str) -> None:
    """CH-2: after revalidate_seconds, and without fetching again what is still the same."""
    one, other = begin(url), begin(proxy.url, Limits(revalidate_seconds=0.5))
    assert put(one, SMALL).status == 200
    assert content(other) == SMALL
    until(lambda: content(other) == SMALL and any(map(is_stat, proxy.heard)))
    assert len([heard for heard in proxy.heard if is_read(heard)]) == 1
    assert put(one, OLD).status == 200
    overwritten = time.monotonic()
    seen = iter(lambda: content(other), OLD)
    assert set(seen) <= {SMALL}
    assert time.monotonic() - overwritten < 0.5 + 2


@pytest.mark.parametrize("before", [None, OLD], ids=["new", "old"])
def test_a_client_that_vanishes(begin: Begin, url: str, container: str, before: Optional[bytes]) -> None:
    """UP-8, UP-9: nothing of it is visible, the key is free at once, and the old object is what it was."""
    one, other = begin(url, ASKING), begin(url, ASKING)
    if before:
        store(url, container, before)
    with half_an_upload(one, url):
        pass
    one.wait_for_log("status=400")
    until(lambda: visible(url, container) == ([KEY] if before else []), 5)
    assert get(one).status == get(other).status == (200 if before else 404)
    assert before is None or content(one) == content(other) == before
    assert list((one.folder / "cache" / "uploads").iterdir()) == []
    assert put(other, SMALL).status == 200
    assert content(one) == SMALL


def test_a_lock_that_somebody_took(
    begin: Begin, proxy: Faulty, url: str, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UP-9: the upload fails, and nothing is mixed."""

    def has_given_up() -> bool:
        before = claims(proxy)
        threading.Event().wait(0.5)  # in which a lock of ours is renewed several times
        return claims(proxy) == before

    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.1)
    server = begin(proxy.url)
    store(url, container, OLD)
    with half_an_upload(server, proxy.url) as end:
        (name,) = filter(is_lock_name, visible(url, container))
        store(url, container, b"of another server", name)
        until(has_given_up)
        reply = end()
    refused(reply, 503)
    server.wait_for_log("reason=lease-lost")
    assert stored(url, container) == content(server) == OLD
    assert stored(url, container, name) == b"of another server"


# ---- A cache that is full, or read-only (UP-10)


class SmallDisk:
    """A disk of 1 MiB with the cache on it; where mounting one is not permitted, a cache that says the same."""

    def __init__(self, server: Running, patch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = str(server.folder / "cache"), patch
        self._mounted = self._mount("-t", "tmpfs", "-o", "size=1m", "none")
        if not self._mounted:
            self._pretend(errno.ENOSPC)

    def _mount(self, *options: str) -> bool:
        try:
            done = subprocess.run(["mount", *options, self._folder], check=False, capture_output=True)
        except FileNotFoundError:
            return False
        return done.returncode == 0

    def _pretend(self, code: int) -> None:
        def create(self: Cache) -> Copy:
            raise OSError(code, os.strerror(code))

        self._patch.setattr(Cache, "create", create)

    def make_read_only(self) -> None:
        if not (self._mounted and self._mount("-o", "remount,ro")):
            self._pretend(errno.EROFS)

    def close(self) -> None:
        if self._mounted:
            subprocess.run(["umount", "-l", self._folder], check=True)


def warnings(server: Running) -> int:
    return len([line for line in server.log() if "event=cache-failed" in line])


def test_a_full_cache(begin: Begin, url: str, container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CH-2, UP-10: objects pass it by, and the operator hears of it once. What has to wait there cannot."""
    server = begin(url)
    with contextlib.closing(SmallDisk(server, monkeypatch)):
        store(url, container, LARGE)
        assert [content(server), content(server)] == [LARGE, LARGE]
        assert get(server, f"Range: bytes={2 * BLOCK}-").body == LARGE[2 * BLOCK :]
        assert put(server, TWICE).status == 200
        assert [content(server), content(server)] == [TWICE, TWICE]
        with server.peer(30) as peer:
            body = form(("file0", "x.bin", LARGE), ("path", None, "job"))
            reply = peer.ask("POST", "/upload", f"Authorization: Bearer {token()}", FORM_TYPE, body=body)
        refused(reply, 507)
        assert stored(url, container) == TWICE
        assert warnings(server) == 1
        assert copies(server) == 0


def test_a_read_only_cache(begin: Begin, url: str, container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CH-2, UP-10: the outdated copy, which cannot be deleted, is never served."""
    server = begin(url)
    with contextlib.closing(SmallDisk(server, monkeypatch)) as disk:
        assert put(server, OLD).status == 200
        assert content(server) == OLD
        disk.make_read_only()
        assert content(server) == OLD
        assert put(server, SMALL).status == 200
        assert [content(server), content(server)] == [SMALL, SMALL]
        assert put(server, LARGE).status == 200
        assert [content(server), content(server)] == [LARGE, LARGE]
        assert warnings(server) == 1


# ---- Lists: LS-1

MANY = 1_005  # more than a page


def name_of(number: int) -> str:
    return f"job-{number % 10}/{'long ' * 18}{number:05}"


@pytest.fixture(scope="module")
def crowded(url: str) -> str:
    """A container with many objects, of names so long that a page of them is more than one block of an answer."""
    container = azurite.new_container(url)
    backend = AzureBackend(account=ACCOUNT, key=azurite.KEY, container=container, endpoint=url)
    with contextlib.closing(backend), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: backend.put(name_of(number), b"", "", ()), range(MANY)))
    return container


ALL = "".join(f"{name}\n" for name in sorted(map(name_of, range(MANY))))


def is_second_page(heard: Heard) -> bool:
    return heard.comp == "list" and "marker" in parse_qs(urlsplit(heard.target).query)


def test_a_list_comes_page_by_page(begin: Begin, proxy: Faulty, crowded: str) -> None:
    """LS-1: sorted, whole; the beginning does not wait for the end."""
    server, gate = begin(proxy.url, container=crowded), proxy.gate(is_second_page)
    with server.peer(30) as peer:
        peer.send("GET /v1/list HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: len(peer.socket.recv(64, socket.MSG_PEEK)) > 0)
        gate.open()
        assert peer.reply().text == ALL
    assert get(server, key="v1/list?prefix=job-3/").text == "".join(re.findall("job-3/.*\n", ALL))


def test_a_list_that_breaks(begin: Begin, proxy: Faulty, crowded: str) -> None:
    """LS-1: in the middle, the client sees that it is not all; at the beginning, it is refused."""
    server = begin(proxy.url, container=crowded)
    proxy.order(is_second_page, BUSY, times=2)
    assert get(server, key="v1/list").text == ALL
    proxy.order(is_second_page, cut(100))
    with server.peer(30) as peer:
        peer.send("GET /v1/list HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            peer.rest()
    with server.peer(30) as peer, pytest.raises(EOFError):
        peer.get("/v1/list")
    server.wait_for_log("reason=answer-broken")
    proxy.recover()
    proxy.order(lambda heard: heard.comp == "list", BUSY)
    refused(get(server, key="v1/list"), 503)
    proxy.recover()
    assert get(server, key="v1/list").text == ALL
