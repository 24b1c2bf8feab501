"""The Stor server through real sockets: SO-1 to SO-10, each by its name; and as a process, as operators run it.

S3 (SO-9) is in test_bucket.py, memcached in test_locations.py, statsd in test_statsd.py."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import itertools
import json
import os
import pty
import random
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest

import kcistorage
import stor
from kcistorage_parts import files, local, replicas
from kcistorage_parts.logfmt import Log
from kcistorage_test.conftest import Running
from kcistorage_test.parts_at_hand import needs, needs_library
from kcistorage_test.talk import Peer, Reply, chunked
from kcistorage_test.test_handlers import until, values

SCRIPT = Path(stor.__file__).resolve()
USER = "writer:writer_pass"
CONTENT = b"the content of an object"
ABSENT = "0" * 64


def sha_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


SHA = sha_of(CONTENT)


def basic(user: str = USER) -> str:
    return f"Authorization: Basic {base64.b64encode(user.encode()).decode()}"


class Served(Running):
    """A Stor server in a thread of this process, on two pairs of folders."""

    def __init__(self, folder: Path, changes: dict[str, Any]) -> None:
        self.pairs = [[folder / f"{number}{letter}" for letter in "ab"] for number in (1, 2)]
        for storage in itertools.chain(*self.pairs):
            storage.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "storage_pairs": tuple(tuple(map(str, pair)) for pair in self.pairs),
            "basic_auth": USER,
            "require_mounts": False,
            **changes,
        }
        self.folder, self.log_path = folder, folder / "log"
        self._log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        log = Log(self._log, verbose=True)
        self.server = stor.build_server(stor.Config(**settings), ("127.0.0.1", 0), str(folder), log)
        self.port: int = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def copies(self, sha: str = SHA) -> list[Path]:
        """Of the first pair, and of the second."""
        name = sha.upper()
        below = f"{name[:2]}/{name[2:4]}/{name[4:6]}/{name}.dat"
        return [storage / below for pair in self.pairs for storage in pair]

    def there(self, sha: str = SHA) -> list[Path]:
        return [path for path in self.copies(sha) if path.exists()]

    def by_hand(self, content: bytes = CONTENT, pair: int = 0) -> list[Path]:
        """As another Stor has left it there."""
        paths = self.copies(sha_of(content))[2 * pair : 2 * pair + 2]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, (1_500_000_000, 1_500_000_000))
        return paths

    def files(self) -> set[Path]:
        return {path for pair in self.pairs for storage in pair for path in storage.rglob("*") if path.is_file()}

    @property
    def storages(self) -> replicas.Storages:
        handler = self.server.site._otherwise["POST"]
        assert isinstance(handler, stor.Post)
        return handler._objects.storages


StartStor = Callable[..., Served]


@pytest.fixture
def start_stor(tmp_path: Path) -> Iterator[StartStor]:
    """Starts servers: `start_stor(basic_auth="", ...)`; with `beside` on the storages of another one."""
    running: list[Served] = []

    def start_one(beside: Optional[Served] = None, **changes: Any) -> Served:
        folder = beside.folder if beside else tmp_path / f"stor-{len(running)}"
        running.append(Served(folder, changes))
        return running[-1]

    yield start_one
    for server in running:
        server.stop()


@pytest.fixture
def served(start_stor: StartStor) -> Served:
    return start_stor()


@pytest.fixture
def peer(served: Served) -> Iterator[Peer]:
    with served.peer() as peer:
        yield peer


def post(peer: Peer, content: bytes = CONTENT, *fields: str, sha: str = "", user: str = USER) -> Reply:
    """An empty body has a Content-Length too."""
    length = [] if content else ["Content-Length: 0"]
    return peer.ask("POST", f"/{sha or sha_of(content)}", basic(user), *length, *fields, body=content)


def get(server: Served, sha: str = SHA) -> Reply:
    with server.peer() as peer:
        return peer.get(f"/{sha}")


# ---- SO-1


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 65_537, 3_000_000])
@pytest.mark.parametrize("times", [1, 3])
def test_get(served: Served, peer: Peer, monkeypatch: pytest.MonkeyPatch, size: int, times: int) -> None:
    """SO-1: the bytes, and what is known of them; from the disk, and then perhaps out of memory."""
    monkeypatch.setattr(local, "SETTLED_NS", -(10**18))
    content = random.Random(size).randbytes(size)
    sha = sha_of(content)
    served.by_hand(content)
    for _ in range(times):
        reply = peer.get(f"/{sha}")
        assert (reply.status, reply.body == content) == (200, True)
        fields = dict(reply.fields)
        del fields["date"], fields["server"]
        assert fields == {
            "accept-ranges": "bytes",
            "cache-control": "public, max-age=31536000, immutable",
            "content-length": str(size),
            "content-type": "application/octet-stream",
            "etag": f'"{sha}"',
            "last-modified": "Fri, 14 Jul 2017 02:40:00 GMT",
            "repr-digest": f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:",
            "x-content-type-options": "nosniff",
        }


@pytest.mark.parametrize("size", [0, 24, 3_000_000])
def test_head(served: Served, peer: Peer, size: int) -> None:
    """SO-1: as GET, without the body; the connection goes on."""
    content = bytes(size)
    served.by_hand(content)
    for _ in range(2):
        head, whole = peer.ask("HEAD", f"/{sha_of(content)}"), peer.get(f"/{sha_of(content)}")
        assert (head.status, head.body) == (200, b"")
        assert {**head.fields, "date": ""} == {**whole.fields, "date": ""}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("wanted", "status", "pieces"),
    [
        ("bytes=0-0", 206, [(0, 1)]),
        ("bytes=3-9", 206, [(3, 10)]),
        ("bytes=5-", 206, [(5, None)]),
        ("bytes=-5", 206, [(-5, None)]),
        ("bytes=0-", 206, [(0, None)]),
        ("bytes=99999999-", 416, []),
        ("lines=1-2", 200, [(0, None)]),
        ("bytes=0-1,5-6", 206, [(0, 2), (5, 7)]),
    ],
)
def test_ranges(
    served: Served, peer: Peer, wanted: str, status: int, pieces: list[tuple[int, Optional[int]]], large: bool
) -> None:
    """SO-1, as DL-5 has them."""
    content = CONTENT * (10_000 if large else 1)
    served.by_hand(content)
    reply = peer.get(f"/{sha_of(content)}", f"Range: {wanted}")
    assert reply.status == status
    expected = [content[start:stop] for start, stop in pieces]
    if status == 416:
        assert reply.fields["content-range"] == f"bytes */{len(content)}"
    elif len(expected) == 1:
        assert reply.body == expected[0]
    else:
        boundary = reply.fields["content-type"].partition("boundary=")[2]
        parts = reply.body.split(f"--{boundary}".encode())[1:-1]
        assert [part.partition(b"\r\n\r\n")[2].rstrip(b"\r\n") for part in parts] == expected
    if status == 206:
        assert reply.fields["etag"] == f'"{sha_of(content)}"'
        assert reply.fields["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (f'If-None-Match: "{SHA}"', 304),
        ("If-None-Match: *", 304),
        (f'If-None-Match: "{ABSENT}"', 200),
        ("If-Modified-Since: Fri, 14 Jul 2017 02:40:00 GMT", 304),
        ("If-Modified-Since: Fri, 14 Jul 2017 02:39:59 GMT", 200),
        (f'If-Match: "{SHA}"', 200),
        (f'If-Match: "{ABSENT}"', 412),
        ("If-Unmodified-Since: Fri, 14 Jul 2017 02:39:59 GMT", 412),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_preconditions(served: Served, peer: Peer, field: str, status: int, method: str) -> None:
    """SO-1, as DL-4 has them; a 304 says again for how long (RFC 9110 15.4.5)."""
    served.by_hand()
    reply = peer.ask(method, f"/{SHA}", field)
    assert reply.status == status
    if status == 304:
        assert reply.body == b""
        assert reply.fields["etag"] == f'"{SHA}"'
        assert reply.fields["cache-control"] == "public, max-age=31536000, immutable"
    assert peer.get(f"/{SHA}").body == CONTENT, "the connection goes on"


@pytest.mark.parametrize(("tag", "status"), [(SHA, 206), (ABSENT, 200)])
def test_a_range_of_the_version_that_is_known(served: Served, peer: Peer, tag: str, status: int) -> None:
    """SO-1: If-Range."""
    served.by_hand()
    assert peer.get(f"/{SHA}", "Range: bytes=0-3", f'If-Range: "{tag}"').status == status


def test_get_needs_no_credentials_and_minds_no_wrong_ones(served: Served, peer: Peer) -> None:
    """SO-1: public."""
    served.by_hand()
    assert peer.get(f"/{SHA}", basic("somebody:else")).body == CONTENT


# ---- SO-2


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", [ABSENT, "F" * 64])
def test_what_is_not_stored(peer: Peer, name: str, method: str) -> None:
    """SO-2."""
    reply = peer.ask(method, f"/{name}")
    assert reply.status == 404
    assert reply.text == ("" if method == "HEAD" else f"File '{name}' not found")
    assert reply.fields["content-length"] == str(len(f"File '{name}' not found"))


def test_names_in_any_case(served: Served, peer: Peer) -> None:
    """SO-2: compared in lower case, on the way in as on the way out."""
    mixed = "".join(digit.upper() if number % 2 else digit for number, digit in enumerate(SHA))
    assert post(peer, sha=mixed).status == 201
    assert post(peer, sha=SHA.upper()).status == 200
    for name in (SHA, SHA.upper(), mixed):
        reply = peer.get(f"/{name}")
        assert (reply.body, reply.fields["etag"]) == (CONTENT, f'"{SHA}"')
    assert len(served.files()) == 2


NO_SHA = [
    "x",
    ABSENT[1:],
    ABSENT + "0",
    f"{ABSENT}/",
    f"{ABSENT[:-1]}g",
    f"{ABSENT[:-1]}%30",
    f"{ABSENT}.dat",
    f"a/{ABSENT}",
    "00/00/00/" + ABSENT,
    f"{ABSENT[:-3]}%0a",
    "%EF%BC%90" * 64,  # full-width digits, which are decimal to Unicode
    ".uploads",
    "..%2f..%2fetc%2fpasswd",
]


@pytest.mark.parametrize("name", NO_SHA)
def test_what_is_no_sha256(served: Served, peer: Peer, name: str) -> None:
    """SO-2: 404 on GET and HEAD, 412 on POST, before anybody looks at credentials."""
    reply = peer.get(f"/{name}")
    assert reply.status == 404
    assert re.fullmatch("File '.*' not found", reply.text, re.DOTALL)
    assert peer.ask("HEAD", f"/{name}").status == 404
    for field in ("X-Nothing: 1", basic()):
        refused = peer.ask("POST", f"/{name}", field, body=CONTENT)
        assert refused.status == 412
        assert re.fullmatch("Given hash '.*' isn't sha256", refused.text, re.DOTALL)
    assert served.files() == set()


def test_the_texts_of_refusals_are_upstreams(peer: Peer) -> None:
    """SO-2, SO-3."""
    assert peer.get("/abc").text == "File 'abc' not found"
    assert peer.ask("POST", "/abc", body=b"x").text == "Given hash 'abc' isn't sha256"
    differs = post(peer, b"foo", sha=ABSENT)
    assert differs.text == f"Content sha256 {sha_of(b'foo')} doesn't match given sha256 {ABSENT}"


@pytest.mark.parametrize(("method", "status"), [("PUT", 405), ("DELETE", 405), ("PATCH", 405), ("BREW", 501)])
def test_other_methods(peer: Peer, method: str, status: int) -> None:
    """SO-2, ST-2."""
    reply = peer.ask(method, f"/{SHA}")
    assert reply.status == status
    assert status == 501 or reply.fields["allow"] == "GET, HEAD, POST"


# ---- SO-3


def test_post_and_get(served: Served, peer: Peer) -> None:
    """SO-3: 201 and then 200, each with the list of the copies; and it is there at once."""
    first = post(peer)
    assert first.status == 201
    assert first.fields["content-type"] == "application/json"
    paths = json.loads(first.body)
    assert [Path(path) for path in paths] == served.there()
    assert [Path(path).read_bytes() for path in paths] == [CONTENT] * 2
    second = post(peer)
    assert (second.status, json.loads(second.body)) == (200, paths)
    assert peer.get(f"/{SHA}").body == CONTENT
    assert served.files() == set(map(Path, paths))


def test_an_object_of_no_bytes(served: Served, peer: Peer) -> None:
    assert post(peer, b"").status == 201
    reply = peer.get(f"/{sha_of(b'')}")
    assert (reply.status, reply.body) == (200, b"")


class Asked(NamedTuple):
    """A post that is wrong in several ways, and which of them is told."""

    name: str
    user: str
    content: bytes
    room: bool
    status: int


ORDER = [
    Asked("no-sha", "", b"x", True, 412),
    Asked("no-sha", "a:b", b"x", False, 412),
    Asked(SHA, "", CONTENT, True, 401),  # stored already
    Asked(SHA, "a:b", b"x", False, 401),
    Asked(ABSENT, "a:b", b"x", False, 401),
    Asked(SHA, USER, b"x", False, 200),  # stored already: the body does not matter
    Asked(ABSENT, USER, b"x", True, 412),
    Asked(ABSENT, USER, b"x", False, 412),
    Asked(sha_of(b"x"), USER, b"x", False, 507),
    Asked(sha_of(b"x"), USER, b"x", True, 201),
]


@pytest.mark.parametrize("asked", ORDER)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_order_of_checks(start_stor: StartStor, asked: Asked, framing: str) -> None:
    """SO-3."""
    served = start_stor(writable_pairs_regex=".*" if asked.room else "nowhere")
    served.by_hand()
    before = served.files()
    body = asked.content if framing == "length" else chunked([asked.content])
    told = f"Content-Length: {len(body)}" if framing == "length" else "Transfer-Encoding: chunked"
    with served.peer() as peer:
        peer.send(f"POST /{asked.name} HTTP/1.1\r\nHost: x\r\n{basic(asked.user)}\r\n{told}\r\n\r\n")
        reply = peer.send(body).reply()
        assert reply.status == asked.status
        assert len(served.files() - before) == (2 if asked.status == 201 else 0)
        if asked.status == 401:
            assert reply.fields["www-authenticate"].startswith("Basic ")
        if asked.status == 507:
            assert reply.text == "Insufficient Storage"
    assert get(served).body == CONTENT


@pytest.mark.parametrize(
    ("name", "user", "status"), [("no-sha", USER, 412), (ABSENT, "a:b", 401), (SHA, USER, 200)], ids=str
)
def test_a_client_that_asks_first_need_not_send_the_body(
    served: Served, peer: Peer, name: str, user: str, status: int
) -> None:
    """SO-3: Expect: 100-continue is answered at once, with the end of it."""
    served.by_hand()
    peer.send(f"POST /{name} HTTP/1.1\r\nHost: x\r\n{basic(user)}\r\nContent-Length: 999999999999\r\n")
    reply = peer.send("Expect: 100-continue\r\n\r\n").reply()
    assert reply.status == status
    assert status != 200 or [Path(path) for path in json.loads(reply.body)] == served.there()


def test_a_client_that_asks_first_hears_that_there_is_no_room(start_stor: StartStor) -> None:
    """SO-3: it need not send what cannot be stored; that its content differs as well, nobody can know."""
    with start_stor(writable_pairs_regex="nowhere").peer() as peer:
        peer.send(f"POST /{SHA} HTTP/1.1\r\nHost: x\r\n{basic()}\r\nContent-Length: 99\r\n")
        assert peer.send("Expect: 100-continue\r\n\r\n").reply().status == 507


@pytest.mark.parametrize("content", [CONTENT, b"not that"])
def test_a_client_that_asks_first_is_told_to_go_on(peer: Peer, content: bytes) -> None:
    """SO-3: for what is not there."""
    head = f"POST /{SHA} HTTP/1.1\r\nHost: x\r\n{basic()}\r\nContent-Length: {len(content)}\r\n"
    assert peer.send(f"{head}Expect: 100-continue\r\n\r\n").reply().status == 100
    assert peer.send(content).reply().status == (201 if content == CONTENT else 412)


def test_a_body_that_nobody_needs_may_still_be_sent(served: Served) -> None:
    """SO-3: the client gets to read its 200."""
    served.by_hand()
    body = bytes(8_000_000)
    with served.peer() as peer:
        assert post(peer, body, sha=SHA).status == 200
        assert peer.rest() == b""


CREDENTIALS = [
    "",
    "Basic",
    "Basic ",
    "Basic  ",
    "Basic =",
    "Basic d3JpdGVy",  # writer
    "Basic d3JpdGVyOndyaXRlcl9wYXNz!",
    "Basic d3JpdGVy OndyaXRlcl9wYXNz",
    "Basic d3JpdGVyOndyaXRlcl9wYXNzCg==",  # with a newline
    "Basic OndyaXRlcl9wYXNz",  # :writer_pass
    "Basic d3JpdGVyOg==",  # writer:
    "Basic Og==",  # :
    "Basic d3JpdGVyOndyaXRlcl9wYXN6",  # the last letter
    "Basic V3JpdGVyOndyaXRlcl9wYXNz",  # another case
    "Basic /////w==",
    "Basic \xff\xfe",
    "Basic " + "A" * 20_000,
    "Bearer d3JpdGVyOndyaXRlcl9wYXNz",
    "Basicd3JpdGVyOndyaXRlcl9wYXNz",
    "Digest username=writer",
    "d3JpdGVyOndyaXRlcl9wYXNz",
    USER,
]


@pytest.mark.parametrize("told", CREDENTIALS)
def test_credentials_that_are_none(peer: Peer, told: str) -> None:
    """SO-3, RFC 7617."""
    reply = peer.ask("POST", f"/{SHA}", f"Authorization: {told}", body=CONTENT)
    assert reply.status == 401
    assert reply.fields["www-authenticate"] == 'Basic realm="Stor", charset="UTF-8"'
    assert peer.get(f"/{SHA}").status == 404


def test_no_credentials(peer: Peer) -> None:
    """SO-3."""
    assert peer.ask("POST", f"/{SHA}", body=CONTENT).status == 401


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", "Basic "])
def test_the_name_of_the_scheme_has_no_case(peer: Peer, scheme: str) -> None:
    """RFC 9110 11.1; and there may be more than one space."""
    told = base64.b64encode(USER.encode()).decode()
    assert peer.ask("POST", f"/{SHA}", f"Authorization: {scheme} {told}", body=CONTENT).status == 201


@pytest.mark.parametrize("user", ["a:b:c:d", "ü:pässwörd", "a: ", "x:" + "y" * 500])
def test_passwords_of_all_kinds(start_stor: StartStor, user: str) -> None:
    """RFC 7617 2: a colon only ends the name; charset UTF-8, as the challenge says."""
    served = start_stor(basic_auth=user)
    with served.peer() as peer:
        assert post(peer, user=user[:-1]).status == 401
        assert post(peer, user=user).status == 201
    line = values(served.wait_for_log("status=201"))
    assert line["owner"] == user.partition(":")[0]


@pytest.mark.parametrize("user", ["", ":", "a:b", USER])
def test_without_credentials_in_the_configuration_nobody_can_post(start_stor: StartStor, user: str) -> None:
    """SO-10."""
    with start_stor(basic_auth="").peer() as peer:
        assert post(peer, user=user).status == 401


@pytest.mark.parametrize("user", ["", "writer:wrong_pass"])
def test_for_strangers_nobody_looks_at_a_disk(
    served: Served, peer: Peer, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    """SO-3: hashing what is there may take a while."""
    monkeypatch.setattr(served.storages, "stored", lambda sha: pytest.fail("somebody looked"))
    assert post(peer, user=user).status == 401


def test_no_credentials_are_in_the_log(served: Served, peer: Peer) -> None:
    post(peer)
    post(peer, user="writer:wrong_pass")
    served.wait_for_log("status=401")
    text = "\n".join(served.log())
    assert not re.search("writer_pass|wrong_pass|" + re.escape(basic()[-12:]), text)


def test_credentials_are_compared_in_constant_time(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """SO-10: whatever is told, all of it is compared, by hmac.compare_digest."""
    seen: list[tuple[bytes, bytes]] = []

    class Spy:
        @staticmethod
        def compare_digest(given: bytes, expected: bytes) -> bool:
            seen.append((given, expected))
            return False

    monkeypatch.setattr(stor, "hmac", Spy)
    users = ["", "w:x", "writer:x", USER]
    for user in users:
        assert post(peer, user=user).status == 401
    assert seen == [(user.encode(), USER.encode()) for user in users]


# ---- SO-4


@pytest.mark.parametrize("blocks", [[CONTENT], [b"a"] * 1_000, [bytes(100_000)] * 20, []])
def test_a_body_in_chunks(served: Served, peer: Peer, blocks: list[bytes]) -> None:
    """SO-3."""
    content = b"".join(blocks)
    peer.send(f"POST /{sha_of(content)} HTTP/1.1\r\nHost: x\r\n{basic()}\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert peer.send(chunked(blocks)).reply().status == 201
    assert [path.read_bytes() == content for path in served.there(sha_of(content))] == [True, True]


def in_the_making(served: Served) -> list[Path]:
    return [path for path in served.files() if path.suffix != ".dat"]


@pytest.mark.parametrize("framing", ["Content-Length: 99999", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("way", ["close", "half-close", "reset"])
def test_a_client_that_leaves_leaves_nothing(served: Served, framing: str, way: str) -> None:
    """SO-4."""
    with served.peer() as peer:
        peer.send(f"POST /{SHA} HTTP/1.1\r\nHost: x\r\n{basic()}\r\n{framing}\r\n\r\n")
        peer.send(f"{len(CONTENT):x}\r\n" if "chunked" in framing else b"").send(CONTENT)
        until(lambda: len(in_the_making(served)) == 2)
        if way == "half-close":
            peer.socket.shutdown(socket.SHUT_WR)
            assert peer.reply().status == 400
        elif way == "reset":
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until(lambda: served.files() == set())
    assert get(served).status == 404


def test_content_that_differs_leaves_nothing(served: Served, peer: Peer) -> None:
    """SO-3, SO-4."""
    for content in (b"", b"x", bytes(1_000_000)):
        assert post(peer, content, sha=SHA).status == 412
    assert served.files() == set()


def test_nothing_is_visible_before_it_is_whole(served: Served, peer: Peer) -> None:
    """SO-4."""
    peer.send(f"POST /{SHA} HTTP/1.1\r\nHost: x\r\n{basic()}\r\nContent-Length: {len(CONTENT)}\r\n\r\n")
    peer.send(CONTENT[:-1])
    until(lambda: len(in_the_making(served)) == 2)
    assert get(served).status == 404
    assert peer.send(CONTENT[-1:]).reply().status == 201
    assert get(served).body == CONTENT


def test_of_two_posts_at_once_one_stores(served: Served) -> None:
    """SO-4: the other gets 200, and both lists are the same."""
    with served.peer() as one, served.peer() as two:
        for peer in (one, two):
            peer.send(f"POST /{SHA} HTTP/1.1\r\nHost: x\r\n{basic()}\r\nContent-Length: {len(CONTENT)}\r\n\r\n")
            peer.send(CONTENT[:-1])
        until(lambda: len(in_the_making(served)) == 4)
        for peer in (one, two):
            peer.send(CONTENT[-1:])
        replies = [peer.reply() for peer in (one, two)]
    assert sorted(reply.status for reply in replies) == [200, 201]
    assert replies[0].body == replies[1].body
    assert served.files() == set(served.there())
    assert len(served.there()) == 2


class Operation(NamedTuple):
    """A request, by our clock."""

    begin: float
    end: float
    method: str
    sha: str
    status: int


def test_posts_and_gets_are_linearizable(served: Served) -> None:
    """SO-4: there is an order of all requests, in keeping with time, in which a set would have answered the same.

    For a set to which one only adds, that is: one 201 for each; no 404 begins after a success has ended; and no
    success ends before the first post has begun."""
    contents = {sha_of(content): content for content in (b"%d" % number * 5_000 for number in range(4))}

    def work(number: int) -> list[Operation]:
        done, chance = [], random.Random(number)
        with served.peer() as peer:
            for turn in range(40):
                sha = chance.choice(list(contents))
                method = "POST" if turn > 5 and chance.random() < 0.25 else "GET"
                begin = time.monotonic()
                reply = post(peer, contents[sha]) if method == "POST" else peer.get(f"/{sha}")
                done.append(Operation(begin, time.monotonic(), method, sha, reply.status))
                assert reply.status in (200, 201, 404)
                assert method == "POST" or reply.status == 404 or reply.body == contents[sha]
        return done

    with ThreadPoolExecutor(8) as pool:
        history = [operation for done in pool.map(work, range(8)) for operation in done]
    for sha in contents:
        about = [operation for operation in history if operation.sha == sha]
        assert Counter(operation.status for operation in about if operation.method == "POST")[201] == 1
        known = min(operation.end for operation in about if operation.status != 404)
        assert all(operation.begin <= known for operation in about if operation.status == 404)
        assert min(operation.begin for operation in about if operation.method == "POST") <= known
    assert {operation.status for operation in history} == {200, 201, 404}


# ---- SO-5, SO-6


def test_where_the_copies_lie(start_stor: StartStor) -> None:
    """SO-5, SO-6: on both storages of the pair that may be written."""
    served = start_stor(writable_pairs_regex="2[ab]$")
    with served.peer() as peer:
        paths = json.loads(post(peer, b"foo\n").body)
    sha = "B5BB9D8014A0F9B1D61E21E796D78DCCDF1352F23CD32812F4850B878AE4944C"
    assert paths == [str(storage / "B5" / "BB" / "9D" / f"{sha}.dat") for storage in served.pairs[1]]


def test_both_pairs_are_used(served: Served, peer: Peer) -> None:
    """SO-6: at random."""
    for number in range(30):
        assert post(peer, b"%d" % number).status == 201
    assert {path.relative_to(served.folder).parts[0] for path in served.files()} == {"1a", "1b", "2a", "2b"}


def test_a_disk_that_is_full(served: Served, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """SO-6: known before, or while the body comes; 507, and nothing is left."""
    with monkeypatch.context() as patch:
        patch.setattr(replicas.Storages, "free", lambda self, pair: 5)
        assert post(peer, b"12345").status == 507
        assert post(peer, b"1234").status == 201
    before = served.files()

    def full(descriptor: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_all", full)
    reply = post(peer, bytes(100_000))
    assert (reply.status, reply.text) == (507, "Insufficient Storage")
    assert served.files() == before


# ---- SO-7


def take_away(storage: Path) -> None:
    storage.rename(storage.with_name(f"{storage.name}, away"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("size", [24, 100_000])
@pytest.mark.parametrize(
    "damage", [Path.unlink, flip_a_bit, partial(os.truncate, length=3)], ids=["gone", "bit", "cut"]
)
@pytest.mark.parametrize("known", [False, True])
def test_the_twin_wins(
    served: Served, peer: Peer, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], size: int, known: bool
) -> None:
    """SO-7: a wrong byte is never sent, the copy is restored, and that is in the log."""
    monkeypatch.setattr(local, "SETTLED_NS", -(10**18))
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    paths = served.by_hand(content)
    if known:
        assert [peer.get(f"/{sha_of(content)}").body == content for _ in range(3)] == [True] * 3
    damage(paths[0])
    for _ in range(4):
        reply = peer.get(f"/{sha_of(content)}")
        assert (reply.status, reply.body == content) == (200, True)
    assert [path.read_bytes() == content for path in paths] == [True, True]
    assert values(served.wait_for_log("event=restored"))["path"] == str(paths[0])


def test_all_copies_wrong(served: Served, peer: Peer) -> None:
    """SO-7: then 500, without a word of where; a post heals it."""
    for path in served.by_hand():
        flip_a_bit(path)
    for method in ("GET", "HEAD"):
        reply = peer.ask(method, f"/{SHA}")
        assert reply.status == 500
        assert method == "HEAD" or reply.text == f"File '{SHA}' is damaged"
    assert values(served.wait_for_log("event=damaged"))["sha"] == SHA
    assert post(peer).status == 201
    assert peer.get(f"/{SHA}").body == CONTENT
    assert get(served).body == CONTENT


def flipped_unseen(served: Served, path: Path) -> None:
    """By the disk itself: the file system does not tell."""
    flip_a_bit(path)
    served.storages._verified[os.fsencode(path)] = files.identity(path.stat())


def test_a_small_object_that_the_disk_has_changed(served: Served, peer: Peer) -> None:
    """SO-7: it is read whole, and so hashed each time it is read; its twin is sent, and it is restored."""
    post(peer)
    for number in range(4):
        path = served.there()[number % 2]
        flipped_unseen(served, path)
        while path.read_bytes() != CONTENT:  # until chance has it read
            assert peer.get(f"/{SHA}").body == CONTENT
    for path in served.there():
        flipped_unseen(served, path)
    assert peer.get(f"/{SHA}").status == 500


class Disk:
    """`os` with bad sectors; `hashes` says whether what comes block by block can be read all the same."""

    def __init__(self, bad: Sequence[Path], hashes: bool = False) -> None:
        self.bad, self._hashes = {path.stat().st_ino for path in bad}, hashes

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def pread(self, descriptor: int, size: int, at: int) -> bytes:
        if os.fstat(descriptor).st_ino in self.bad and not (self._hashes and size == replicas.BLOCK):
            raise OSError(errno.EIO, "injected")
        return os.pread(descriptor, size, at)

    def read(self, descriptor: int, size: int) -> bytes:
        if os.fstat(descriptor).st_ino in self.bad:
            raise OSError(errno.EIO, "injected")
        return os.read(descriptor, size)


@pytest.mark.parametrize("verify", [True, False])
def test_a_small_object_that_cannot_be_read_is_read_from_its_twin(
    start_stor: StartStor, monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    """SO-7: a bad sector."""
    served = start_stor(verify_reads=verify)
    with served.peer() as peer:
        post(peer)
        disk = Disk(served.there()[:1])
        monkeypatch.setattr(replicas, "os", disk)
        for _ in range(12):
            assert peer.get(f"/{SHA}").body == CONTENT
        assert served.there()[0].stat().st_ino not in disk.bad, "restored, elsewhere on the disk"


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("hashes", [False, True])
def test_a_small_object_of_which_no_copy_can_be_read(
    start_stor: StartStor, monkeypatch: pytest.MonkeyPatch, verify: bool, hashes: bool
) -> None:
    """SO-7: not even where one reading succeeds and the next one fails, again and again."""
    served = start_stor(verify_reads=verify)
    with served.peer() as peer:
        post(peer)
        monkeypatch.setattr(replicas, "os", Disk(served.there(), hashes))
        assert peer.get(f"/{SHA}").status == (503 if hashes else 500)
        monkeypatch.undo()
        assert peer.get(f"/{SHA}").body == CONTENT


def test_large_objects_are_served_from_either_copy(served: Served, peer: Peer) -> None:
    """SO-7."""
    content = os.urandom(1_000_000)
    paths = served.by_hand(content)
    take_away(served.pairs[0][0])
    for _ in range(4):
        assert peer.get(f"/{sha_of(content)}").body == content
    assert not paths[0].exists(), "that storage is away"


def test_the_end_waits_for_no_large_copy(start_stor: StartStor, monkeypatch: pytest.MonkeyPatch) -> None:
    """SO-7: what is being restored then is left to the next process."""
    monkeypatch.setattr(replicas, "AT_ONCE", 10)
    restoring, go_on = threading.Event(), threading.Event()
    write_all = files.write_all

    def slow(descriptor: int, data: bytes) -> None:
        restoring.set()
        assert go_on.wait(10)
        write_all(descriptor, data)

    monkeypatch.setattr(files, "write_all", slow)
    folder = start_stor().folder
    server = Served(folder, {})
    twin = server.by_hand()[1]
    twin.unlink()
    assert get(server).body == CONTENT
    assert restoring.wait(10)
    server.stop()
    go_on.set()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("mender")])
    assert not twin.exists()
    assert in_the_making(server) == []


def test_reads_that_are_not_verified(start_stor: StartStor) -> None:
    """SO-7: where the operator wants it so."""
    served = start_stor(verify_reads=False)
    flip_a_bit(served.by_hand()[0])
    with served.peer() as peer:
        bodies = {peer.get(f"/{SHA}").body for _ in range(30)}
    assert CONTENT in bodies


# ---- SO-8


@pytest.mark.parametrize(
    ("target", "text"), [("/", f"This is Stor {kcistorage.__version__}"), ("/status", "OK")], ids=["banner", "status"]
)
def test_banner_and_status(peer: Peer, target: str, text: str) -> None:
    """SO-8."""
    reply = peer.get(target)
    assert (reply.status, reply.text) == (200, text)
    assert peer.ask("HEAD", target).status == 200
    assert peer.ask("POST", target, body=b"x").status == 405


def test_status_names_what_is_away(served: Served, peer: Peer) -> None:
    """SO-8."""
    for storage in (served.pairs[0][1], served.pairs[1][0]):
        take_away(storage)
    served.pairs[1][0].touch()
    reply = peer.get("/status")
    assert reply.status == 503
    assert all(str(path) in reply.text for path in (served.pairs[0][1], served.pairs[1][0]))
    assert not any(str(path) in reply.text for path in (served.pairs[0][0], served.pairs[1][1]))
    served.pairs[1][0].unlink()
    for storage in (served.pairs[0][1], served.pairs[1][0]):
        storage.mkdir()
    assert peer.get("/status").text == "OK"


@pytest.mark.parametrize("required", [True, False])
def test_status_and_mounts(start_stor: StartStor, monkeypatch: pytest.MonkeyPatch, required: bool) -> None:
    """SO-8: a folder on the file system of / is a disk that is not mounted, unless plain folders will do."""
    mounted: list[str] = []
    ismount = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: path == "/" or path in mounted)
    served = start_stor(require_mounts=required)
    served.by_hand()
    with served.peer() as peer:
        assert peer.get("/status").status == (503 if required else 200)
        assert post(peer, b"x").status == (507 if required else 201)
        assert peer.get(f"/{SHA}").body == CONTENT, "what is there is served"
        mounted += [str(storage) for pair in served.pairs for storage in pair]
        assert peer.get("/status").status == 200
        assert post(peer, b"y").status == 201
    assert ismount("/")


def test_status_on_a_disk_that_is_mounted(start_stor: StartStor) -> None:
    """SO-8: /dev/shm is one, on every Linux."""
    if not os.path.ismount("/dev/shm"):
        needs("a file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        served = start_stor(require_mounts=True, storage_pairs=((folder,),))
        with served.peer() as peer:
            assert peer.get("/status").text == "OK"
            assert json.loads(post(peer).body) == [
                f"{folder}/{SHA[:2]}/{SHA[2:4]}/{SHA[4:6]}/{SHA}.dat".upper()
                .replace(folder.upper(), folder)
                .replace(".DAT", ".dat")
            ]
            assert peer.get(f"/{SHA}").body == CONTENT


def test_metrics(served: Served, peer: Peer) -> None:
    """SO-8, MT-1: they come although a storage is away."""
    post(peer)
    peer.get(f"/{SHA}")
    peer.get("/x")
    served.wait_for_log("status=404")
    take_away(served.pairs[0][0])
    reply = peer.get("/metrics")
    assert reply.status == 200
    assert 'kcistorage_requests_total{method="POST",status="201"} 1.0' in reply.text
    assert 'kcistorage_requests_total{method="GET",status="200"} 1.0' in reply.text
    assert 'kcistorage_errors_total{reason="not-found"} 1.0' in reply.text
    assert "storage_free_space{" in reply.text


# ---- SO-10: configuration

UPSTREAM = """{
  "statsite": {"host": "127.0.0.1", "prefix": "stor.dev", "sample_rate": 0.1},
  "storage_pairs": [["/mnt/data1", "/mnt/data2"], ["/mnt/data3", "/mnt/data4"]],
  "writable_pairs_regex": "data[12]",
  "s3_enabled" : true,
  "s3_credentials" : {"access_key" : "S3_ACCESS_KEY", "secret_key" : "S3_SECRET_KEY", "host" : "S3_HOST"},
  "memcached_servers": ["MEMCACHED_SERVER1"],
  "secret": "https://mojolicious.org/perldoc/Mojolicious/Guides/FAQ",
  "basic_auth": "writer:writer_pass"
}"""
EXPECTED = stor.Config(
    storage_pairs=(("/mnt/data1", "/mnt/data2"), ("/mnt/data3", "/mnt/data4")),
    writable_pairs_regex="data[12]",
    basic_auth="writer:writer_pass",
    s3_enabled=True,
    s3_credentials=stor.S3Credentials("S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_HOST"),
    memcached_servers=("MEMCACHED_SERVER1",),
    statsite=stor.Statsite("127.0.0.1", "stor.dev", 0.1),
    secret="https://mojolicious.org/perldoc/Mojolicious/Guides/FAQ",
)


def written(folder: Path, text: str, name: str = "stor.json") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_the_configuration_of_upstream(tmp_path: Path) -> None:
    """SO-10: as it is."""
    assert stor.load_config(written(tmp_path, UPSTREAM)) == EXPECTED


def test_the_same_keys_in_toml(tmp_path: Path) -> None:
    """SO-10: in [stor], whatever else there is; which kcistorage passes over."""
    keys = json.loads(UPSTREAM)
    tables = {name: keys.pop(name) for name in ("statsite", "s3_credentials")}
    lines = ['driver = "local"', 'jwt_secret = "x"', "[stor]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
    for name, table in tables.items():
        lines += [f"[stor.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    path = written(tmp_path, "\n".join(lines), "config.toml")
    assert stor.load_config(path) == EXPECTED
    assert kcistorage.load_config(path).driver == "local"


PAIR = '"storage_pairs": [["/a", "/b"]]'
WRONG = [
    ("{}", "storage_pairs is missing"),
    ("[]", "expected an object with the keys of Stor"),
    ("3", "expected an object with the keys of Stor"),
    ("{", "Expecting property name"),
    ("", "Expecting value"),
    ("[" * 100_000, "recursion"),
    ('{"storage_pairs": []}', 'storage_pairs = []: expected lists of folders, such as [["/mnt/data1", "/mnt/data2"]]'),
    ('{"storage_pairs": [[]]}', "storage_pairs = [[]]: expected lists of folders"),
    ('{"storage_pairs": [[""]]}', 'storage_pairs = [[""]]: expected lists of folders'),
    ('{"storage_pairs": ["/a", "/b"]}', 'storage_pairs[0] = "/a": expected a list'),
    ('{"storage_pairs": [["/a", 5]]}', "storage_pairs[0][1] = 5: expected a string"),
    ('{"storage_pairs": [["/a", "/a"]]}', 'storage_pairs = [["/a", "/a"]]: expected each folder once'),
    ('{"storage_pairs": [["/a"], ["/b/../a"]]}', "expected each folder once"),
    (f'{{{PAIR}, "storage_pair": 1}}', "unknown key storage_pair; did you mean storage_pairs?"),
    (f'{{{PAIR}, "basic_auth": "nobody"}}', 'basic_auth = "(not shown)": expected user:password'),
    (f'{{{PAIR}, "basic_auth": ":hush"}}', 'basic_auth = "(not shown)": expected user:password'),
    (f'{{{PAIR}, "basic_auth": "hush:"}}', 'basic_auth = "(not shown)": expected user:password'),
    (f'{{{PAIR}, "basic_auth": "a:hush\\n"}}', 'basic_auth = "(not shown)": expected user:password'),
    (f'{{{PAIR}, "basic_auth": ["hush"]}}', 'basic_auth = "(not shown)": expected a string'),
    (f'{{{PAIR}, "writable_pairs_regex": "("}}', 'writable_pairs_regex = "(": expected a regular expression'),
    (f'{{{PAIR}, "statsite": {{"sample_rate": 0}}}}', "statsite.sample_rate = 0: expected above 0, and 1 at most"),
    (f'{{{PAIR}, "statsite": {{"sample_rate": 1.5}}}}', "statsite.sample_rate = 1.5: expected above 0, and 1 at most"),
    (f'{{{PAIR}, "statsite": {{"sample_rate": NaN}}}}', "statsite.sample_rate = NaN: expected a number"),
    (f'{{{PAIR}, "statsite": {{"port": 0}}}}', "statsite.port = 0: expected a port"),
    (f'{{{PAIR}, "statsite": {{"port": 65536}}}}', "statsite.port = 65536: expected a port"),
    (f'{{{PAIR}, "statsite": "x"}}', 'statsite = "x": expected a table'),
    (f'{{{PAIR}, "s3_enabled": true}}', 's3_credentials.host = "": expected the host of S3'),
    (f'{{{PAIR}, "s3_enabled": "yes"}}', 's3_enabled = "yes": expected true or false'),
    (f'{{{PAIR}, "trusted_proxies": ["x"]}}', "trusted_proxies: 'x' is not a network"),
    (f'{{{PAIR}, "require_mounts": 1}}', "require_mounts = 1: expected true or false"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_configuration_that_will_not_do(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    """SO-10: file, key, value and what was expected, in one line; no secrets; exit code 2."""
    path = written(tmp_path, text)
    monkeypatch.setenv("CONFIG_FILE", path)
    assert stor.main([]) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith(f"stor: {path}: ")
    assert message in line
    assert "hush" not in line


STARTS = [
    ('"statsite": {"host": "no.such.host.invalid"}', 'statsite.host = "no.such.host.invalid": expected a host'),
    ('"memcached_servers": ["host:port"]', 'memcached_servers = ["host:port"]: expected host or host:port'),
    ('"memcached_servers": [""]', 'memcached_servers = [""]: expected host or host:port'),
    ('"s3_enabled": true, "s3_credentials": {"host": "a b"}', 's3_credentials = "(not shown)": expected endpoint'),
    ('"s3_enabled": true, "s3_credentials": {"host": "h", "access_key": "x"}', "access_key, secret_key: both"),
]


@pytest.mark.parametrize(("text", "message"), STARTS)
def test_a_configuration_that_cannot_be_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    """SO-10: known when the server starts."""
    needs_library("obstore")
    needs_library("pymemcache")
    monkeypatch.setenv("CONFIG_FILE", written(tmp_path, f'{{"storage_pairs": [["{tmp_path}"]], {text}}}'))
    monkeypatch.setenv("KCI_STORAGE_PORT", "0")
    monkeypatch.setattr(kcistorage.StorageServer, "serve_forever", lambda server: pytest.fail("it was not refused"))
    assert stor.main([]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("library", "keys"),
    [
        ("obstore", '"s3_enabled": true, "s3_credentials": {"host": "h"}'),
        ("pymemcache.client.hash", '"memcached_servers": ["h"]'),
    ],
)
def test_an_extra_that_is_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, library: str, keys: str
) -> None:
    """SO-10: its name is told."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "kcistorage_parts.s3", raising=False)
    monkeypatch.setenv("CONFIG_FILE", written(tmp_path, f'{{"storage_pairs": [["{tmp_path}"]], {keys}}}'))
    monkeypatch.setenv("KCI_STORAGE_PORT", "0")
    assert stor.main([]) == 2
    assert re.search(r"pip install 'kcistorage\[(s3|memcached)\]'", capfd.readouterr().err)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.json", None, "No such file"),
        ("none.toml", None, "no such file"),
        ("config.toml", 'driver = "local"\n', "expected a table [stor]"),
        ("config.toml", "stor = 1\n", "expected a table [stor]"),
        ("config.toml", "[stor]\n", "stor.storage_pairs is missing"),
        ("config.toml", "[stor\n", "config.toml"),
    ],
)
def test_files_that_are_no_configuration(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, text: Optional[str], message: str
) -> None:
    """SO-10."""
    path = str(tmp_path / name)
    if text is not None:
        written(tmp_path, text, name)
    assert stor.main(["--config-file", path]) == 2
    err = capfd.readouterr().err
    assert name in err
    assert message.lower() in err.lower()


def test_secrets_are_in_no_repr() -> None:
    assert not re.search("writer_pass|S3_SECRET_KEY|mojolicious", repr(EXPECTED))


# ---- As a process


class Program:
    """`python stor.py`, its log line by line."""

    def __init__(self, config: str, *arguments: str, **environment: str) -> None:
        told = {**os.environ, "KCI_STORAGE_HOST": "127.0.0.1", "KCI_STORAGE_PORT": "0", "CONFIG_FILE": config}
        command = [sys.executable, str(SCRIPT), *arguments]
        output = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env={**told, **environment}, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(values(self.wait_for_log("event=start"))["url"].rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for_log(self, text: str) -> str:
        until(lambda: any(text in line for line in self.lines) or self.process.poll() is not None, 20)
        found = next((line for line in self.lines if text in line), None)
        assert found is not None, f"no {text!r} in " + "\n".join(self.lines)
        return found

    def peer(self, seconds: float = 20) -> Peer:
        return Peer(("127.0.0.1", self.port), seconds)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextlib.contextmanager
def program(config: str, *arguments: str, **environment: str) -> Iterator[Program]:
    server = Program(config, *arguments, **environment)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)


def simple(folder: Path, **keys: Any) -> tuple[str, list[Path]]:
    """A configuration with one pair, and the folders of it."""
    pair = [folder / "a", folder / "b"]
    for storage in pair:
        storage.mkdir(exist_ok=True)
    told = {"storage_pairs": [list(map(str, pair))], "require_mounts": False, "basic_auth": USER, **keys}
    return written(folder, json.dumps(told)), pair


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    """SO-10: exit code 0; what was posted is there."""
    config, pair = simple(tmp_path)
    with program(config) as server:
        assert values(server.wait_for_log("event=start"))["protocol"] == "stor"
        with server.peer() as peer:
            assert post(peer).status == 201
            assert server.end(number) == 0
            assert peer.rest() == b"", "the idle connection was closed in good order"
        assert not any("Traceback" in line for line in server.lines)
    assert sum(path.is_file() for storage in pair for path in storage.rglob("*.dat")) == 2


def test_what_a_killed_server_leaves_the_next_one_removes(tmp_path: Path) -> None:
    """SO-4: SIGKILL in the middle of a body."""
    config, pair = simple(tmp_path)
    left = [storage / ".uploads" for storage in pair]
    with program(config) as server, server.peer() as peer:
        peer.send(f"POST /{SHA} HTTP/1.1\r\nHost: x\r\n{basic()}\r\nContent-Length: 99\r\n\r\n").send(CONTENT)
        until(lambda: all(folder.is_dir() and list(folder.iterdir()) for folder in left))
        server.end(signal.SIGKILL)
    assert [len(list(folder.iterdir())) for folder in left] == [1, 1]
    with program(config) as server, server.peer() as peer:
        until(lambda: not any(list(folder.iterdir()) for folder in left))
        assert peer.get(f"/{SHA}").status == 404
        assert post(peer).status == 201


def test_nobody_can_post_and_the_log_says_so(tmp_path: Path) -> None:
    """SO-10."""
    config, _ = simple(tmp_path, basic_auth="")
    with program(config) as server:
        assert "basic_auth" in values(server.wait_for_log("event=warning"))["text"]
        with server.peer() as peer:
            assert post(peer).status == 401


def resident(pid: int, field: str) -> int:
    """Bytes, of VmRSS or of its peak, VmHWM."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_a_large_post_and_get_in_little_memory(tmp_path: Path) -> None:
    """SO-4: less than 32 MiB more, whatever the size."""
    size = 256 << 20
    block = os.urandom(1 << 20)
    sum_of = hashlib.sha256()
    for _ in range(size >> 20):
        sum_of.update(block)
    sha = sum_of.hexdigest()
    config, pair = simple(tmp_path)
    with program(config) as server, server.peer(60) as peer:
        assert post(peer).status == 201
        idle = resident(server.process.pid, "VmRSS")
        peer.send(f"POST /{sha} HTTP/1.1\r\nHost: x\r\n{basic()}\r\nContent-Length: {size}\r\n\r\n")
        for _ in range(size >> 20):
            peer.send(block)
        assert peer.reply().status == 201
        peer.send(f"GET /{sha} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer._until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert all(peer.take(1 << 20) == block for _ in range(size >> 20))
        assert resident(server.process.pid, "VmHWM") - idle < 32 << 20
    shutil.rmtree(pair[0])
    shutil.rmtree(pair[1])


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def command(folder: Path, *arguments: str, **environment: str) -> Ended:
    told = {**os.environ, "KCI_STORAGE_HOST": "127.0.0.1", **environment}
    run = [sys.executable, str(SCRIPT), *arguments]
    ended = subprocess.run(run, cwd=folder, env=told, capture_output=True, text=True, timeout=60, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_init_writes_a_configuration_and_lines_that_work(tmp_path: Path) -> None:
    """SO-10: two pairs of folders, a fresh password that nobody else may read, and a post to paste."""
    needs("curl")
    probe = socket.create_server(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])
    probe.close()
    first = command(tmp_path, "--init", CONFIG_FILE="stor.json", KCI_STORAGE_PORT=port)
    assert (first.code, first.err) == (0, "")
    path = tmp_path / "stor.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = stor.load_config(str(path))
    assert [len(pair) for pair in config.storage_pairs] == [2, 2]
    assert not config.require_mounts
    assert all(Path(storage).is_dir() for pair in config.storage_pairs for storage in pair)
    before = path.read_bytes()
    again = command(tmp_path, "--init", CONFIG_FILE="stor.json", KCI_STORAGE_PORT=port)
    assert again.out.endswith(first.out), "kept as it is, with the same lines"
    assert path.read_bytes() == before
    lines = [line.strip() for line in first.out.splitlines() if line.startswith("  curl")]
    assert len(lines) == 2
    with program(str(path), KCI_STORAGE_PORT=port):
        told = [subprocess.run(shlex.split(line), capture_output=True, check=True, timeout=30).stdout for line in lines]
    assert len(json.loads(told[0])) == 2
    assert sha_of(told[1]) in lines[1]


def test_help_and_version(capfd: pytest.CaptureFixture[str]) -> None:
    for option, words in (
        ("--help", ["--config-file", "CONFIG_FILE", "--init", "--scrub", "--verbose", "./ssl"]),
        ("--version", [f"stor {kcistorage.__version__}"]),
    ):
        with pytest.raises(SystemExit) as ended:
            stor.main([option])
        assert ended.value.code == 0
        text = capfd.readouterr().out
        assert [word for word in words if word not in text] == []


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[str, dict[str, Path]]:
    """A configuration, and copies that are wrong in each way."""
    config, pair = simple(tmp_path)
    storages = replicas.Storages([list(map(str, pair))], lambda sha: contextlib.nullcontext(), require_mounts=False)
    found = {}
    for what in ("whole", "missing", "damaged", "lost"):
        with storages.create(len(what)) as incoming:
            incoming.write(what.encode())
            found[what] = Path(incoming.commit(sha_of(what.encode()))[1][0])
    found["missing"].unlink()
    flip_a_bit(found["damaged"])
    for storage in pair:
        flip_a_bit(storage / found["lost"].relative_to(pair[0]))
    return config, found


def test_scrub(damaged: tuple[str, dict[str, Path]], tmp_path: Path) -> None:
    """SO-7: what was wrong, whether it is restored, and where; 1 if anything was, 0 the next time."""
    config, found = damaged
    first = command(tmp_path, "--scrub", CONFIG_FILE=config)
    lines = [line.split("\t") for line in first.out.splitlines()]
    twin = tmp_path / "b" / found["lost"].relative_to(tmp_path / "a")
    assert sorted(lines) == sorted(
        [
            ["missing", "restored", str(found["missing"])],
            ["damaged", "restored", str(found["damaged"])],
            ["damaged", "lost", str(found["lost"])],
            ["damaged", "lost", str(twin)],
        ]
    )
    assert first.code == 1
    assert first.err.splitlines()[-1] == "4 copies of 0.0 MB in order, 4 faults"
    assert [found[what].read_bytes() for what in ("missing", "damaged")] == [b"missing", b"damaged"]
    for path in (found["lost"], twin):
        path.unlink()
    second = command(tmp_path, "--scrub", CONFIG_FILE=config)
    assert (second.code, second.out, second.err) == (0, "", "6 copies of 0.0 MB in order, 0 faults\n")


def test_scrub_shows_its_progress_on_a_terminal(damaged: tuple[str, dict[str, Path]]) -> None:
    """SO-7: in one line, which is gone when there is something to say."""
    ours, theirs = pty.openpty()
    seen = []
    environment = {**os.environ, "CONFIG_FILE": damaged[0]}
    with open(ours, "rb", buffering=0) as terminal:
        run = [sys.executable, str(SCRIPT), "--scrub"]
        ended = subprocess.Popen(run, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: nobody else has the terminal open any more
            while data := terminal.read(4096):
                seen.append(data)
    assert ended.wait(30) == 1
    text = b"".join(seen).decode().replace("\r\n", "\n")
    assert re.search(r"\r\x1b\[K\d cop(y|ies), 0\.0 MB read: …", text)
    assert text.endswith("\r\x1b[K4 copies of 0.0 MB in order, 4 faults\n")
    assert "\r\x1b[Kdamaged\tlost\t" in text


def test_scrub_beside_a_server(tmp_path: Path) -> None:
    """SO-7: what is posted meanwhile is no fault, and what is restored the server serves."""
    config, pair = simple(tmp_path)
    with program(config) as server, server.peer() as peer:
        for number in range(20):
            post(peer, b"%d" % number)
        next(pair[0].rglob("*.dat")).unlink()
        assert command(tmp_path, "--scrub", CONFIG_FILE=config).code == 1
        for number in range(20):
            assert peer.get(f"/{sha_of(b'%d' % number)}").body == b"%d" % number
        assert command(tmp_path, "--scrub", CONFIG_FILE=config).code == 0
