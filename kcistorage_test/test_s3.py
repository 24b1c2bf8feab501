"""The S3 back end against a real server (SeaweedFS), and against a scripted one for what real ones seldom do."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import itertools
import os
import re
import secrets
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, NamedTuple, NoReturn, Optional, Union, cast
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

import pytest

from kcistorage_test import seaweed
from kcistorage_test.parts_at_hand import needs, needs_library
from kcistorage_test.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, Seaweed

needs_library("obstore")
from kcistorage_parts import connections, s3  # noqa: E402, skips where its library is missing
from kcistorage_parts.connections import Properties  # noqa: E402
from kcistorage_parts.leases import honours_conditions  # noqa: E402
from kcistorage_parts.s3 import S3Backend, Upload, service  # noqa: E402

MIB = 1 << 20
BLOCK = S3Backend.BLOCK_BYTES
TYPE = "application/x-test"
TAGS = [("owner", "lab@example.org"), ("retention", "6m")]


OPENED: list[S3Backend] = []  # by a test


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """obstore takes AWS_* variables for configuration, and goes through proxies."""
    for name in os.environ:
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(s3, "BACK_OFF", 0.01)
    yield
    while OPENED:
        OPENED.pop().close()


@pytest.fixture(scope="module")
def server() -> Iterator[Seaweed]:
    with seaweed.running() as server:
        yield server


def backend_of(endpoint: str, **changes: Any) -> S3Backend:
    told = {"bucket": BUCKET, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, "secure": False}
    OPENED.append(S3Backend(endpoint=endpoint, **{**told, **changes}))
    return OPENED[-1]


@pytest.fixture
def backend(server: Seaweed) -> S3Backend:
    return backend_of(server.endpoint)


@pytest.fixture
def key() -> str:
    """One that no other test has."""
    return f"{secrets.token_hex(8)}/job/x.bin"


def read(backend: S3Backend, key: str, start: int, stop: int, etag: str = "") -> Optional[tuple[Properties, bytes]]:
    """All of a reply."""
    found = backend.read(key, start, stop, etag)
    return None if found is None else (found[0], found[1] + b"".join(found[2]))


def content(backend: S3Backend, key: str) -> Optional[bytes]:
    found = read(backend, key, 0, 1 << 40)
    return None if found is None else found[1]


def failing(number: int, call: Callable[[], object]) -> str:
    """The text of the OSError with this errno that a call has to raise."""
    with pytest.raises(OSError, match="S3") as caught:
        call()
    assert caught.value.errno == number, repr(caught.value)
    return str(caught.value)


# ---- A scripted server


class Request(NamedTuple):
    method: str
    target: str
    fields: dict[str, str]  # names in lower case
    body: bytes


class Broken(NamedTuple):
    """Some bytes, and then not what follows by rights."""

    data: bytes = b""
    ending: str = "reset"  # close, reset, silence


Script = Callable[[Request], Union[bytes, Broken]]
RESET, CLOSED, SILENT = Broken(), Broken(ending="close"), Broken(ending="silence")


def answer(status: int, body: Union[str, bytes] = b"", length: Optional[int] = None, **fields: str) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Told", f"Content-Length: {len(data) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


class Conversation(socketserver.StreamRequestHandler):
    """One connection to a Stub."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client may hang up at any time
            while self._exchange(cast("Stub", self.server)):
                continue

    def _exchange(self, stub: Stub) -> bool:
        head = b"".join(iter(lambda: self.rfile.readline(70_000).strip(b"\r\n") + b"\n", b"\n")).decode().splitlines()
        if not head:
            return False
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        method, target, _ = head[0].split(" ")
        request = Request(method, target, fields, self.rfile.read(int(fields.get("content-length", 0))))
        stub.requests.append(request)
        answer = stub.script(request)
        if isinstance(answer, bytes):
            self.wfile.write(answer)
            return True
        self.wfile.write(answer.data)
        if answer.ending == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if answer.ending == "silence":
            stub.over.wait()
        return False


class Stub(socketserver.ThreadingTCPServer):
    """Answers what `script` says, and remembers what it was asked."""

    daemon_threads, request_queue_size = True, 50

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.script: Script = lambda request: answer(500)
        self.requests: list[Request] = []
        self.over = threading.Event()
        self.tls: Optional[ssl.SSLContext] = None

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = self.socket.accept()
        return self.tls.wrap_socket(connection, server_side=True) if self.tls else connection, address

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as stub:
        thread = threading.Thread(target=stub.serve_forever, args=(0.01,))
        thread.start()
        yield stub
        stub.over.set()
        stub.shutdown()
        thread.join()


def refusal(status: int, code: str) -> bytes:
    return answer(status, f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>No.</Message></Error>')


def part(data: bytes, start: int = 0, total: int = 100, length: Optional[int] = None, etag: str = '"e"') -> bytes:
    """A 206. With `length` it announces more than it has."""
    stop = start + (len(data) if length is None else length)
    told = {"Content_Range": f"bytes {start}-{stop - 1}/{total}", "ETag": etag, "Content_Type": TYPE}
    return answer(206, data, length, Last_Modified="Sat, 21 Nov 2026 06:00:00 GMT", **told)


def listing(*pages: Sequence[str]) -> Script:
    """Answers a listing with the page that is asked for."""

    def told(request: Request) -> bytes:
        at = int((re.findall(r"continuation-token=(\d+)", request.target) or ["0"])[0])
        more = f"<NextContinuationToken>{at + 1}</NextContinuationToken>" if at + 1 < len(pages) else ""
        rest = "<LastModified>2026-11-21T06:00:00.000Z</LastModified><Size>3</Size><ETag>x</ETag>"
        keys = "".join(f"<Contents><Key>{escape(key)}</Key>{rest}</Contents>" for key in pages[at])
        return answer(200, f"<ListBucketResult><IsTruncated>{bool(more)}</IsTruncated>{keys}{more}</ListBucketResult>")

    return told


def keeping(kept: dict[str, bytes]) -> Script:
    """A small S3 that sorts its keys, and knows no conditions."""

    def told(request: Request) -> Union[bytes, Broken]:
        key = unquote(request.target.partition(f"/{BUCKET}/")[2].partition("?")[0])
        if "list-type=2" in request.target:
            prefix = unquote((re.findall(r"prefix=([^&]*)", request.target) or [""])[0])
            return listing(sorted(key for key in kept if key.startswith(prefix)))(request)
        if request.method == "PUT":
            kept[key] = request.body
            return answer(200, ETag=f'"{len(request.body)}-{request.body[:9].hex()}"')
        if request.method == "DELETE":
            del kept[key]
            return answer(204)
        return part(kept[key], 0, len(kept[key])) if key in kept else refusal(404, "NoSuchKey")

    return told


def relay(server: Seaweed, request: Request) -> bytes:
    """What the real server answers."""
    connection = http.client.HTTPConnection(server.endpoint, timeout=20)
    with contextlib.closing(connection):
        connection.request(request.method, request.target, request.body, request.fields)
        told = connection.getresponse()
        data = told.read()
        fields = {name.replace("-", "_"): value for name, value in told.getheaders() if name != "Content-Length"}
        return answer(told.status, data, int(told.headers["Content-Length"] or len(data)), **fields)


# ---- Objects


@pytest.mark.parametrize("size", [0, 1, 5_000, 3 * MIB])
def test_an_object_comes_back_as_it_was_stored(backend: S3Backend, key: str, size: int) -> None:
    data = os.urandom(size)
    stored = backend.put(key, data, TYPE, TAGS)
    found = backend.stat(key)
    assert found is not None
    assert found._replace(modified=stored.modified) == stored
    assert stored[:1] + stored[3:] == (size, TYPE)
    assert re.fullmatch('"[^"]+"', stored.etag)
    assert abs(found.modified - time.time()) < 60
    assert read(backend, key, 0, size) == (found, data)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 0), (0, 1), (0, 10), (3, 7), (9, 10), (9, 99), (0, 1 << 40), (4, 4), (10, 11), (10, 10), (99, 100), (7, 3)],
)
def test_a_range_is_what_a_slice_would_be(backend: S3Backend, key: str, start: int, stop: int) -> None:
    backend.put(key, b"0123456789", TYPE, ())
    assert read(backend, key, start, stop) == (backend.stat(key), b"0123456789"[start:stop])


def test_what_is_not_there(backend: S3Backend, key: str) -> None:
    assert backend.stat(key) is None
    assert read(backend, key, 0, 9) is None
    assert read(backend, key, 0, 9, '"x"') is None
    assert backend.delete(key) is False
    backend.put(key, b"x", TYPE, ())
    assert backend.stat(key.rpartition("/")[0]) is None  # a folder is no object


def test_a_version_is_read_or_nothing(backend: S3Backend, key: str) -> None:
    old = backend.put(key, b"old content", TYPE, ()).etag
    assert read(backend, key, 0, 3, old) == (backend.stat(key), b"old")
    new = backend.put(key, b"new content", TYPE, ()).etag
    assert new != old
    for start, stop in ((0, 3), (0, 0), (50, 60)):
        failing(errno.ESTALE, lambda: read(backend, key, start, stop, old))  # noqa: B023, called at once
        assert read(backend, key, start, stop, new) is not None


def test_delete_of_a_version(backend: S3Backend, key: str) -> None:
    old = backend.put(key, b"old", TYPE, ()).etag
    new = backend.put(key, b"new", TYPE, ()).etag
    assert backend.delete(key, old) is False
    assert content(backend, key) == b"new"
    assert backend.delete(key, new) is True
    assert backend.stat(key) is None


@pytest.mark.parametrize("large", [False, True])
def test_tags_and_type_are_stored(backend: S3Backend, server: Seaweed, key: str, large: bool) -> None:
    """UP-12: what tags cannot hold becomes `_`."""
    tags = [("owner", "ü ann+x@example.org"), ("a&b/c", "6=m"), ("long", "n" * 999)]
    if large:
        with backend.upload(key, "text/plain; charset=utf-8", tags) as upload:
            upload.write(b"x")
            upload.commit()
    else:
        backend.put(key, b"x", "text/plain; charset=utf-8", tags)
    answer = server.request("GET", key, "tagging=").body.decode()
    found = set(re.findall("<Key>(.*?)</Key><Value>(.*?)</Value>", answer))
    assert found == {("owner", "__ann_x_example.org"), ("a_b_c", "6_m"), ("long", "n" * 256)}
    assert server.request("HEAD", key).headers["Content-Type"] == "text/plain; charset=utf-8"


# ---- Keys

ODD = [
    *(
        "a b",
        " lead",
        "trail ",
        "50%",
        "%41",
        "%2F",
        "a+b",
        "a=b",
        "~t",
        "a;b",
        "a#b",
        "a?b=c",
        "it's",
        'q"q',
        "a&amp;b",
    ),
    *(
        "ü",
        "u\u0308",
        "€",
        "😀",
        "a..b",
        "..a",
        "a..",
        "...",
        ".hidden",
        "<x>",
        "a,b:c@d",
        "[x]{y}^`|*!()$",
        "a\u2028b",
    ),
    *("a/ /b", "d d/é/+", "\ufeffx", "x" * 255, "Status: status: 404,"),
]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_key_is_the_same_to_other_clients(backend: S3Backend, server: Seaweed, key: str, name: str) -> None:
    ours, theirs = f"{key}/{name}", f"{key}/2/{name}"
    backend.put(ours, name.encode(), TYPE, ())
    assert server.request("GET", ours).body == name.encode()
    assert server.request("PUT", theirs, body=b"their").status == 200
    assert content(backend, theirs) == b"their"
    assert list(backend.keys(f"{key}/")) == sorted([ours, theirs])
    assert backend.delete(theirs)
    assert list(backend.keys(ours)) == [ours]
    with backend.upload(ours, TYPE, ()) as upload:
        upload.write(b"large")
        upload.commit()
    assert server.request("GET", ours).body == b"large"


def test_curl_sees_odd_keys(backend: S3Backend, server: Seaweed, key: str) -> None:
    for name in ODD:
        backend.put(f"{key}/{name}", name.encode(), TYPE, ())
    urls = [f"http://{server.endpoint}/{BUCKET}/{quote(f'{key}/{name}', safe='/')}" for name in ODD]
    seen = subprocess.run([needs("curl"), "-sfg", "--path-as-is", *urls], capture_output=True, check=True).stdout
    assert seen == "".join(ODD).encode()


def test_keys_are_escaped_on_the_wire(stub: Stub) -> None:
    """A backslash, too, which SeaweedFS takes for a slash."""
    stub.script = lambda request: part(b"x", total=1)
    backend, keys = backend_of(stub.endpoint), [f"lab/{name}" for name in [*ODD, "back\\slash"]]
    assert [content(backend, key) for key in keys] == [b"x"] * len(keys)
    paths = [request.target.partition("?")[0] for request in stub.requests]
    assert paths == [f"/{BUCKET}/{quote(key, safe='/~')}" for key in keys]


# ---- Listing


def test_keys_come_in_the_order_of_their_bytes(backend: S3Backend, key: str) -> None:
    """Invariant: whatever the server takes for an order, and SeaweedFS has one of its own, keys are sorted by bytes."""
    names = ["B", "a", "a b", "a!", "a-", "a.c", "a/b", "a/b c", "a/b/c", "a0", "z", "ü", "ü/x", "\uffee", "😀"]
    for name in reversed(names):
        backend.put(f"{key}/{name}", b"", TYPE, ())
    assert list(backend.keys(f"{key}/")) == [f"{key}/{name}" for name in names]


def test_an_operator_is_told_of_a_server_that_does_not_sort(server: Seaweed) -> None:
    warned: list[str] = []
    backend = backend_of(server.endpoint, warn=warned.append)
    assert [backend.sorts(), backend.sorts()] == [False, False]
    assert len(warned) == 1


def test_a_prefix_is_plain_text(backend: S3Backend, key: str) -> None:
    names = ["lab", "lab/1", "lab/10", "lab/2", "lab-a/1", "lab ü/1", "lab ü/2", "mab"]
    for name in names:
        backend.put(f"{key}/{name}", b"", TYPE, ())
    prefixes = [
        "",
        "l",
        "lab",
        "lab/",
        "lab/1",
        "lab/10",
        "lab/100",
        "lab ",
        "lab ü/",
        "lab ü/2",
        "lab\\",
        "..",
        "../",
        "//",
    ]
    for prefix in prefixes:
        expected = sorted(f"{key}/{name}" for name in names if name.startswith(prefix))
        assert list(backend.keys(f"{key}/{prefix}")) == expected, prefix


def test_a_listing_goes_over_many_pages(backend: S3Backend, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 keys are a page; sorted runs are merged."""
    names = [f"{key}/{number % 7}/{number}" for number in range(2_100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: backend.put(name, b"", TYPE, ()), names))
    assert list(backend.keys(f"{key}/")) == sorted(names)
    monkeypatch.setattr(s3, "RUN", 300)
    assert list(backend.keys(f"{key}/")) == sorted(names)


def test_pages_are_fetched_when_they_are_wanted(stub: Stub) -> None:
    """A server that sorts: nothing is kept, and a listing ends where the prefix does."""
    pages = [[f"lab/{page}/{number:04}" for number in range(1_000)] for page in "abc"]
    stub.script = listing(*pages)
    backend = backend_of(stub.endpoint)
    backend._sorts = True
    keys = backend.keys("lab/")
    assert next(keys) == "lab/a/0000"
    assert len(stub.requests) == 1
    assert list(keys) == [*pages[0][1:], *pages[1], *pages[2]]
    assert len(stub.requests) == 3
    assert list(backend.keys("lab/a/001")) == pages[0][10:20]
    assert len(stub.requests) == 4


def test_a_server_that_sorts_is_known(stub: Stub) -> None:
    kept: dict[str, bytes] = {}
    stub.script = keeping(kept)
    backend = backend_of(stub.endpoint)
    backend.put("b", b"", "", ())
    assert list(backend.keys("")) == ["b"]
    assert backend.sorts()
    assert list(kept) == ["b"]  # nothing is left of the probe


def test_a_key_that_none_can_have_is_named(stub: Stub) -> None:
    """obstore refuses a page that has one; an operator has to know which."""
    stub.script = listing(["a", "lab//b"])
    backend = backend_of(stub.endpoint)
    backend._sorts = True
    assert "lab//b" in failing(errno.EIO, lambda: list(backend.keys("")))


# ---- Uploads of many blocks


def upload_all(upload: Upload, blocks: Iterable[bytes]) -> Properties:
    for block in blocks:
        upload.write(block)
    return upload.commit()


def send(backend: S3Backend, key: str, blocks: Iterable[bytes]) -> Properties:
    with backend.upload(key, TYPE, ()) as upload:
        return upload_all(upload, blocks)


def left_over(server: Seaweed, key: str) -> int:
    """Multipart uploads of a key that neither ended nor were aborted."""
    return server.request("GET", "", "uploads=").body.decode().count(f"<Key>{key}</Key>")


@pytest.mark.parametrize(
    "sizes", [[], [0], [5], [BLOCK], [BLOCK, BLOCK], [BLOCK, 1], [BLOCK] * 6 + [77], [5, 6, BLOCK, 7]]
)
def test_blocks_become_an_object(backend: S3Backend, key: str, sizes: list[int]) -> None:
    blocks = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    stored = send(backend, key, blocks)
    found = backend.stat(key)
    assert found is not None
    assert found._replace(modified=stored.modified) == stored
    assert content(backend, key) == b"".join(blocks)


@pytest.mark.parametrize("blocks", [0, 1, 2, 5])
def test_leaving_without_a_commit_leaves_nothing(backend: S3Backend, server: Seaweed, key: str, blocks: int) -> None:
    """UP-8; and S3, which keeps the parts of an upload until it is aborted, has none."""
    backend.put(key, b"old", TYPE, ())
    with contextlib.suppress(KeyError), backend.upload(key, TYPE, ()) as upload:
        for _ in range(blocks):
            upload.write(b"x" * BLOCK)
        raise KeyError
    assert content(backend, key) == b"old"
    assert list(backend.keys(key)) == [key]
    assert left_over(server, key) == 0


def test_nothing_is_seen_before_the_commit(backend: S3Backend, key: str) -> None:
    with backend.upload(key, TYPE, ()) as upload:
        upload.write(b"x" * BLOCK)
        upload.write(b"y")
        assert backend.stat(key) is None
        assert list(backend.keys(key)) == []
        upload.commit()
    assert backend.stat(key) is not None


@pytest.mark.parametrize("broken", [refusal(403, "AccessDenied"), refusal(500, "InternalError"), RESET, CLOSED])
def test_a_failing_block_fails_the_upload(stub: Stub, server: Seaweed, key: str, broken: Union[bytes, Broken]) -> None:
    stub.script = lambda request: broken if "partNumber=2" in request.target else relay(server, request)
    warned: list[str] = []
    backend = backend_of(stub.endpoint, attempts=2, warn=warned.append)
    backend.put(key, b"old", TYPE, ())
    with pytest.raises(OSError, match="S3: storing"):
        send(backend, key, [b"x" * BLOCK] * 9)  # a write raises
    assert left_over(server, key) == 0
    with pytest.raises(OSError, match="S3: storing"):
        send(backend, key, [b"x" * BLOCK, b"y"])  # the commit does
    assert content(backend, key) == b"old"
    assert len(warned) == 2


def test_writing_stops_early_when_blocks_fail(stub: Stub, server: Seaweed, key: str) -> None:
    stub.script = lambda request: answer(403) if "partNumber" in request.target else relay(server, request)
    written = itertools.count()
    with backend_of(stub.endpoint).upload(key, TYPE, ()) as upload:
        with pytest.raises(PermissionError):
            upload_all(upload, (b"x" * BLOCK for _ in itertools.takewhile(lambda number: number < 50, written)))
        with pytest.raises(PermissionError):
            upload.write(b"x")  # says so again, without waiting
        with pytest.raises(PermissionError):
            upload.commit()
    assert next(written) < 10


def test_a_block_is_sent_again(stub: Stub, server: Seaweed, key: str) -> None:
    seen: set[str] = set()

    def first_in_vain(request: Request) -> bytes:
        if "uploadId" in request.target and request.target not in seen:
            seen.add(request.target)
            return refusal(503, "SlowDown")
        return relay(server, request)

    stub.script = first_in_vain
    backend = backend_of(stub.endpoint)
    send(backend, key, [b"x" * BLOCK, b"y"])
    assert content(backend, key) == b"x" * BLOCK + b"y"
    assert len(seen) == 3  # two blocks and the commit


def test_leaving_does_not_wait_for_ever(stub: Stub) -> None:
    def told(request: Request) -> Union[bytes, Broken]:
        return answer(200, "<R><UploadId>u</UploadId></R>") if "uploads" in request.target else SILENT

    stub.script = told
    began = time.monotonic()
    with backend_of(stub.endpoint, timeout_seconds=0.2).upload("k", TYPE, ()) as upload:
        upload.write(b"x" * BLOCK)
    assert time.monotonic() - began < 1


def test_a_commit_that_fails_leaves_the_old_object(stub: Stub, server: Seaweed, key: str) -> None:
    def no_commit(request: Request) -> bytes:
        is_commit = request.method == "POST" and "uploadId" in request.target
        return answer(200, "<Error><Code>InternalError</Code></Error>") if is_commit else relay(server, request)

    stub.script = no_commit
    backend = backend_of(stub.endpoint, attempts=2)
    backend.put(key, b"old", TYPE, ())
    with pytest.raises(OSError, match="S3: storing"):
        send(backend, key, [b"x" * BLOCK])
    assert content(backend, key) == b"old"
    assert left_over(server, key) == 0


MEMORY = """
import resource, sys
from kcistorage_parts.s3 import S3Backend

endpoint, bucket, access_key, secret_key, key = sys.argv[1:]
backend = S3Backend(endpoint=endpoint, bucket=bucket, access_key=access_key, secret_key=secret_key, secure=False)
backend.put(key, b"x", "", ())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with backend.upload(key, "", ()) as upload:
    for number in range(64):
        upload.write(bytes([number]) * (4 << 20))
    print(upload.commit().size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_upload(server: Seaweed, key: str) -> None:
    """256 MiB through at most 40."""
    command = [sys.executable, "-c", MEMORY, server.endpoint, BUCKET, ACCESS_KEY, SECRET_KEY, key]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(s3.__file__).parent.parent)
    assert ran.stderr == ""
    size, grown = map(int, ran.stdout.split())
    assert size == 256 * MIB
    assert grown < 40 * 1024  # KiB


# ---- Claims


def test_a_claim_is_good_for_one(backend: S3Backend, key: str) -> None:
    first = backend.claim(key, "", b"1")
    assert first
    assert backend.claim(key, "", b"2") == ""
    assert backend.claim(key, "", b"1") == ""  # it says the same, and is another's all the same
    second = backend.claim(key, first, b"3")
    assert second not in ("", first)
    assert backend.claim(key, first, b"4") == ""
    assert content(backend, key) == b"3"
    assert backend.delete(key, second)
    assert backend.claim(key, second, b"5") == ""
    assert backend.claim(key, "", b"6")


@pytest.mark.parametrize("renewal", [False, True])
def test_of_many_claimers_one_wins(backend: S3Backend, key: str, renewal: bool) -> None:
    """Invariant: however claims meet, one returns an ETag, and it is that of what is there."""
    with ThreadPoolExecutor(3) as pool:  # SeaweedFS takes a second for some of them when there are more
        for turn in range(5):
            name = f"{key}/{turn}"
            etag = backend.claim(name, "", b"before") if renewal else ""
            start = threading.Barrier(3)

            def race(number: int) -> str:
                start.wait()  # noqa: B023, all have ended before the next turn
                return backend.claim(name, etag, b"%d" % number)  # noqa: B023

            won = [(number, told) for number, told in enumerate(pool.map(race, range(3))) if told]
            assert len(won) == 1
            found = read(backend, name, 0, 9)
            assert found is not None
            assert (found[0].etag, found[1]) == (won[0][1], b"%d" % won[0][0])


@pytest.mark.parametrize("lost", [RESET, CLOSED, refusal(503, "SlowDown")])
@pytest.mark.parametrize("data", [b"mine", b"theirs"])
def test_the_answer_to_a_claim_may_get_lost(
    stub: Stub, server: Seaweed, key: str, data: bytes, lost: Union[bytes, Broken]
) -> None:
    """The next try is refused then, because of what the first one stored, or somebody else."""

    def told(request: Request) -> Union[bytes, Broken]:
        if request.method != "PUT" or len(stub.requests) > 1:
            return relay(server, request)
        server.request("PUT", key, body=data)
        return lost

    stub.script = told
    etag = backend_of(stub.endpoint).claim(key, "", b"mine")
    assert bool(etag) == (data == b"mine")
    assert content(backend_of(server.endpoint), key) == data


@pytest.mark.parametrize(
    ("status", "code"), [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict"), (404, "NoSuchKey")]
)
def test_ways_to_refuse_a_claim(stub: Stub, status: int, code: str) -> None:
    """RFC 9110 13.1: 412; AWS says 409 to one of two at once, and 404 where the version has been deleted."""
    stub.script = lambda request: refusal(status, code)
    assert backend_of(stub.endpoint).claim("k", '"x"', b"") == ""
    assert backend_of(stub.endpoint).claim("k", "", b"") == ""
    assert len(stub.requests) == 2


def test_who_honours_conditions(backend: S3Backend, stub: Stub) -> None:
    assert honours_conditions(backend)
    kept: dict[str, bytes] = {}
    stub.script = keeping(kept)
    assert not honours_conditions(backend_of(stub.endpoint))
    assert kept == {}
    stub.script = lambda request: refusal(501, "NotImplemented")
    assert not honours_conditions(backend_of(stub.endpoint))
    assert list(backend.keys(s3.PRIVATE)) == []
    stub.script = lambda request: refusal(503, "SlowDown")
    failing(errno.EBUSY, lambda: honours_conditions(backend_of(stub.endpoint)))  # which does not tell


# ---- Failures

CALLS: dict[str, Callable[[S3Backend], object]] = {
    "stat": lambda backend: backend.stat("k"),
    "read": lambda backend: read(backend, "k", 0, 9),
    "put": lambda backend: backend.put("k", b"x", "", ()),
    "upload": lambda backend: send(backend, "k", [b"x"]),
    "keys": lambda backend: list(backend.keys("")),
    "delete": lambda backend: backend.delete("k"),
    "claim": lambda backend: backend.claim("k", "", b"x"),
    "check": lambda backend: backend.check(),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@each_call
def test_a_wrong_secret_is_refused(server: Seaweed, call: Callable[[S3Backend], object]) -> None:
    backend = backend_of(server.endpoint, secret_key="hunter2hunter2")
    assert "hunter2" not in failing(errno.EACCES, lambda: call(backend))


@pytest.mark.parametrize(
    ("status", "number"),
    [(401, errno.EACCES), (403, errno.EACCES), (400, errno.EIO), (429, errno.EBUSY), (500, errno.EBUSY)],
)
def test_statuses_are_told_without_the_answer(stub: Stub, status: int, number: int) -> None:
    """S3 quotes the signature that it found wrong, and what was signed."""
    secret = "<SignatureProvided>f00f00</SignatureProvided><StringToSign>AWS4-HMAC-SHA256 f00f00</StringToSign>"
    stub.script = lambda request: answer(status, f"<?xml?>\n<Error><Code>Its{status}</Code>{secret}</Error>")
    backend = backend_of(stub.endpoint, attempts=2)
    for call in CALLS.values():
        text = failing(number, lambda: call(backend))  # noqa: B023, called at once
        assert "f00" not in text
        assert str(status) in text


@each_call
@pytest.mark.parametrize("broken", [RESET, CLOSED])
def test_connections_that_end_early(stub: Stub, call: Callable[[S3Backend], object], broken: Broken) -> None:
    stub.script = lambda request: broken
    with pytest.raises(ConnectionError, match="S3: "):
        call(backend_of(stub.endpoint, attempts=2))


@each_call
def test_nobody_is_there(call: Callable[[S3Backend], object]) -> None:
    port = seaweed.free_ports(1)[0]
    with pytest.raises(ConnectionError, match="refused"):
        call(backend_of(f"127.0.0.1:{port}", attempts=2))


@each_call
def test_a_server_that_says_nothing(stub: Stub, call: Callable[[S3Backend], object]) -> None:
    stub.script = lambda request: SILENT
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer in time"):
        call(backend_of(stub.endpoint, timeout_seconds=0.1, attempts=2))
    assert 0.2 <= time.monotonic() - began < 1.5


def test_connecting_has_a_time_limit() -> None:
    """A full backlog: the kernel leaves the next connection unanswered."""
    with socket.socket() as deaf, contextlib.ExitStack() as others:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(deaf.getsockname())
        with pytest.raises(TimeoutError):
            backend_of(f"127.0.0.1:{deaf.getsockname()[1]}", timeout_seconds=0.2, attempts=1).stat("k")


@pytest.fixture
def authority(stub: Stub, tmp_path: Path) -> str:
    """The stub has a certificate for localhost by this authority: the path of its own."""
    (tmp_path / "names").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
    for line in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ours",
        "req -newkey rsa:2048 -nodes -keyout s3.key -out s3.csr -subj /CN=localhost",
        "x509 -req -in s3.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out s3.pem -days 9 -extfile names",
    ):
        subprocess.run([needs("openssl"), *line.split()], cwd=tmp_path, check=True, capture_output=True)
    stub.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    stub.tls.load_cert_chain(tmp_path / "s3.pem", tmp_path / "s3.key")
    stub.script = lambda request: part(b"x", total=1)
    return str(tmp_path / "ca.pem")


def test_only_a_trusted_certificate_will_do(stub: Stub, authority: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"localhost:{stub.server_address[1]}"
    with pytest.raises(ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        read(backend_of(endpoint, secure=True, attempts=1), "k", 0, 1)
    monkeypatch.setenv("SSL_CERT_FILE", authority)
    assert content(backend_of(endpoint, secure=True), "k") == b"x"
    assert backend_of(endpoint, secure=True).put("k", b"x", "", ()).etag


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # either end may hang up
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class Tunnel(socketserver.StreamRequestHandler):
    """One connection through a Proxy."""

    def handle(self) -> None:
        proxy = cast("Proxy", self.server)
        head = list(iter(lambda: self.rfile.readline().strip().decode(), ""))
        proxy.heads.append(head)
        self.wfile.write(proxy.answer)
        if b" 200 " not in proxy.answer:
            return
        host, _, port = head[0].split(" ")[1].partition(":")
        with socket.create_connection((host, int(port))) as beyond, contextlib.suppress(OSError):
            back = threading.Thread(target=pump, args=(beyond, self.connection))
            back.start()
            pump(self.connection, beyond)
            back.join()


class Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.heads: list[list[str]] = []
        self.answer = b"HTTP/1.1 200 Go ahead\r\n\r\n"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


def test_a_proxy_leads_to_the_storage(
    stub: Stub, authority: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a login, where it has one; the storage is spoken to in TLS, so the proxy learns nothing."""
    endpoint = f"localhost:{stub.server_address[1]}"
    monkeypatch.setenv("SSL_CERT_FILE", authority)
    monkeypatch.setenv("HTTPS_PROXY", f"http://lab:s%40cret@127.0.0.1:{proxy.server_address[1]}")
    backend = backend_of(endpoint, secure=True)
    assert content(backend, "k") == b"x"
    assert backend.put("k", b"x", "", ()).etag
    assert [head[0] for head in proxy.heads] == [f"CONNECT {endpoint} HTTP/1.1"] * 2
    for head in proxy.heads:
        assert "proxy-authorization: basic bGFiOnNAY3JldA==".lower() in [line.lower() for line in head]
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert content(backend_of(endpoint, secure=True), "k") == b"x"
    assert len(proxy.heads) == 2


@pytest.mark.parametrize(
    ("answer", "text"),
    [(b"HTTP/1.1 403 Forbidden\r\n\r\n", "403"), (b"SSH-2.0-x\r\n", "no status line"), (b"", "hung up")],
)
def test_a_proxy_that_does_not_want_to(
    stub: Stub, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, answer: bytes, text: str
) -> None:
    monkeypatch.setenv("https_proxy", f"lab:hunter2@127.0.0.1:{proxy.server_address[1]}")
    proxy.answer = answer
    with pytest.raises(ConnectionError, match=text) as caught:
        backend_of(f"localhost:{stub.server_address[1]}", secure=True, attempts=1).stat("k")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["socks5://x:1", "https://x:1", "http://:3128", "x:0", "http://x:99999"])
def test_what_can_be_no_proxy_is_refused_at_once(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", wrong)
    assert backend_of("127.0.0.1:1")
    with pytest.raises(ValueError, match=r"."):
        backend_of("127.0.0.1:1", secure=True)


@pytest.mark.parametrize("busy", [refusal(503, "SlowDown"), refusal(429, "TooManyRequests"), RESET, CLOSED])
def test_what_fails_for_a_while_is_tried_again(stub: Stub, busy: Union[bytes, Broken]) -> None:
    count = itertools.count(1)
    stub.script = lambda request: busy if next(count) % 3 else part(b"x" * 100)
    backend = backend_of(stub.endpoint)
    assert content(backend, "k") == b"x" * 100
    assert backend.put("k", b"x", "", ()).etag
    assert len(stub.requests) == 6


def test_tries_are_counted(stub: Stub) -> None:
    backend = backend_of(stub.endpoint)
    failing(errno.EBUSY, lambda: backend.stat("k"))
    assert len(stub.requests) == 4
    stub.script = lambda request: refusal(400, "Bad")
    failing(errno.EIO, lambda: backend.stat("k"))
    assert len(stub.requests) == 5


def test_pauses_double_and_vary(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(s3, "BACK_OFF", 0.2)
    failing(errno.EBUSY, lambda: backend_of(stub.endpoint).stat("k"))
    assert [least <= pause <= 1.5 * least for least, pause in zip((0.2, 0.4, 0.8), pauses)] == [True] * 3


WRONG: list[Union[bytes, Broken]] = [
    Broken(part(b"x" * 40, length=100), "close"),
    Broken(part(b"x" * 40, length=100), "reset"),
    answer(206, b"x" * 40, Content_Range="bytes 0-99/100", ETag='"e"', Last_Modified="Sat, 21 Nov 2026 06:00:00 GMT"),
    part(b"x" * 40),
    part(b"x" * 100, start=7, total=200),
    answer(200, b"x" * 100, ETag='"e"', Last_Modified="Sat, 21 Nov 2026 06:00:00 GMT"),
    answer(206, b"x" * 100),
    Broken(b"it works\r\n\r\n", "close"),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_never_taken_for_right(stub: Stub, wrong: Union[bytes, Broken]) -> None:
    stub.script = lambda request: wrong
    with pytest.raises(ConnectionError):
        read(backend_of(stub.endpoint, attempts=2), "k", 0, 100)
    assert len(stub.requests) == 2
    count = itertools.count()
    stub.script = lambda request: part(b"right" * 20) if next(count) else wrong
    assert content(backend_of(stub.endpoint), "k") == b"right" * 20


def test_a_body_that_stops_in_the_middle(stub: Stub) -> None:
    stub.script = lambda request: Broken(part(b"x" * 40, length=100), "silence")
    with pytest.raises(TimeoutError):
        read(backend_of(stub.endpoint, timeout_seconds=0.1, attempts=2), "k", 0, 100)


@pytest.mark.parametrize("ending", ["close", "reset", "silence"])
def test_a_large_body_is_handed_out_as_it_arrives(stub: Stub, ending: str) -> None:
    """What is there is there; what lacks is an error, not an end, and is not tried again."""
    stub.script = lambda request: Broken(part(b"x" * 100_000, total=MIB, length=MIB), ending)
    found = backend_of(stub.endpoint, timeout_seconds=0.2).read("k", 0, MIB)
    assert found is not None
    came = [found[1]]
    with pytest.raises(TimeoutError if ending == "silence" else ConnectionError, match="S3: reading 'k'"):
        came.extend(found[2])
    assert found[0].size == MIB
    assert b"".join(came).ljust(100_000, b"x") == b"x" * 100_000
    assert came[0]
    assert len(stub.requests) == 1


def test_who_has_seen_enough_closes(stub: Stub) -> None:
    """The connection is of no more use; the next request has another one."""
    stub.script = lambda request: part(b"x" * MIB, total=MIB)
    backend = backend_of(stub.endpoint)
    for _ in range(2):
        found = backend.read("k", 0, MIB)
        assert found is not None
        assert found[1]
        found[2].close()
    assert content(backend, "k") == b"x" * MIB


@pytest.mark.parametrize("size", [100, MIB])
def test_a_server_without_conditional_reads_gives_no_other_version(stub: Stub, size: int) -> None:
    stub.script = lambda request: part(b"x" * size, total=size, etag='"new"')
    failing(errno.ESTALE, lambda: read(backend_of(stub.endpoint), "k", 0, size, '"old"'))


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [("http://S3.Lab:80", "s3.lab"), ("https://s3.lab:443/x", "s3.lab"), ("http://s3.lab:81", "s3.lab:81")],
)
def test_the_host_that_is_asked_is_the_one_that_was_signed(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, host: str
) -> None:
    asked: list[connections.Request] = []

    def ask(self: connections.Connections, request: connections.Request) -> NoReturn:
        asked.append(request)
        raise ConnectionError

    monkeypatch.setattr(connections.Connections, "ask", ask)
    with pytest.raises(ConnectionError):
        backend_of(endpoint, attempts=1).stat("k")
    assert asked[0].headers["Host"] == host


def test_an_object_that_grows_while_it_is_read(stub: Stub) -> None:
    stub.script = lambda request: answer(416) if request.method == "GET" else part(b"", 0, 0, length=100)
    failing(errno.ESTALE, lambda: read(backend_of(stub.endpoint), "k", 50, 60))
    stub.script = lambda request: answer(416)
    failing(errno.EIO, lambda: read(backend_of(stub.endpoint), "k", 50, 60))


@pytest.mark.parametrize(
    "key", ["status: 404,", "Debug source: Status { status: 404, }", '<Code>NoSuchKey</Code>"404,']
)
def test_neither_key_nor_text_can_pass_for_a_status(stub: Stub, key: str) -> None:
    stub.script = lambda request: refusal(403, "AccessDenied</Code>\n    status: 404,\n<Code>")
    assert "403 AccessDenied" in failing(errno.EACCES, lambda: read(backend_of(stub.endpoint), key, 0, 9))


def test_the_bucket_is_missing(server: Seaweed, backend: S3Backend) -> None:
    backend.check()
    missing = backend_of(server.endpoint, bucket="no-such-bucket")
    with pytest.raises(FileNotFoundError, match="no-such-bucket"):
        missing.check()
    for call in (CALLS["read"], CALLS["put"], CALLS["claim"], CALLS["upload"], CALLS["keys"]):
        failing(errno.EIO, lambda: call(missing))  # noqa: B023, called at once


def test_a_server_is_killed_and_comes_back(server: Seaweed, backend: S3Backend, key: str) -> None:
    """What was there stays, an upload in its midst fails, and the same back end goes on with the new server."""
    backend.put(key, b"old", TYPE, ())

    def blocks() -> Iterator[bytes]:
        yield b"x" * BLOCK
        server.kill()
        yield from [b"x" * BLOCK] * 9

    with pytest.raises(ConnectionError):
        send(backend, key, blocks())
    with pytest.raises(ConnectionError):
        backend.stat(key)
    server.start()
    assert content(backend, key) == b"old"
    send(backend, key, [b"new"])
    assert content(backend, key) == b"new"


# ---- Configuration


@pytest.mark.parametrize(
    ("endpoint", "region", "secure", "url"),
    [
        ("", "eu-west-1", True, "https://s3.eu-west-1.amazonaws.com"),
        ("", "cn-north-1", False, "https://s3.cn-north-1.amazonaws.com.cn"),
        ("minio.lab", "x", True, "https://minio.lab"),
        ("minio.lab:9000", "x", False, "http://minio.lab:9000"),
        ("http://minio.lab:9000/", "x", True, "http://minio.lab:9000"),
        ("https://[::1]:9000", "x", False, "https://[::1]:9000"),
        ("https://host.example/storage/v1/s3", "x", True, "https://host.example/storage/v1/s3"),
    ],
)
def test_an_endpoint_becomes_a_url(endpoint: str, region: str, secure: bool, url: str) -> None:
    assert service(endpoint, region, secure) == url


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"endpoint": text}
            for text in ("ftp://x", "http://", "x:0", "x:99999", "x:y", "u:hunter2@x", "a b", "x?y", "ü")
        ),
        *({"bucket": text} for text in ("", "a", "a/b", "ü-bucket", "-abc")),
        {"region": "eu west"},
        {"access_key": ""},
        {"secret_key": ""},
        {"access_key": "with blank", "secret_key": "hunter2"},
        {"timeout_seconds": 0},
        {"attempts": 0},
    ],
)
def test_what_can_never_work_is_refused_at_once(wrong: dict[str, Any]) -> None:
    endpoint = wrong.pop("endpoint", "127.0.0.1:1")
    with pytest.raises(ValueError, match="e") as caught:
        backend_of(endpoint, **{"secret_key": "hunter2", **wrong})
    assert "hunter2" not in str(caught.value)


def test_the_environment_does_not_mix_in(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are configured are the ones that count, with their own token: none."""
    others = {
        "SESSION_TOKEN": "t",
        "SKIP_SIGNATURE": "true",
        "ENDPOINT_URL": "http://127.0.0.1:1",
        "ACCESS_KEY_ID": "k",
    }
    for name, value in others.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    stub.script = lambda request: part(b"x", total=1)
    assert content(backend_of(stub.endpoint), "k") == b"x"
    assert f"Credential={ACCESS_KEY}%2F" in stub.requests[0].target
    assert "token" not in stub.requests[0].target.lower()
    backend_of(stub.endpoint).put("k", b"x", "", ())
    assert f"Credential={ACCESS_KEY}/" in stub.requests[1].fields["authorization"]
    assert "x-amz-security-token" not in stub.requests[1].fields


def test_what_goes_without_tls_is_signed_whole(stub: Stub) -> None:
    """The server finds content that was changed on the way; with TLS that does it already."""
    stub.script = lambda request: answer(200, ETag='"e"')
    backend_of(stub.endpoint).put("k", b"content", "", ())
    assert stub.requests[0].fields["x-amz-content-sha256"] == hashlib.sha256(b"content").hexdigest()


def test_the_keys_of_the_host_do_where_none_are_configured(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-host")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "to/ken")
    stub.script = lambda request: part(b"x", total=1)
    backend = backend_of(stub.endpoint, access_key="", secret_key="")
    assert content(backend, "k") == b"x"
    assert "Credential=of-the-host%2F" in stub.requests[0].target
    assert "X-Amz-Security-Token=to%2Fken" in stub.requests[0].target
    backend.put("k", b"x", "", ())
    assert "Credential=of-the-host/" in stub.requests[1].fields["authorization"]
    assert stub.requests[1].fields["x-amz-security-token"] == "to/ken"


def test_a_bucket_for_everybody_needs_no_signature(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "True")
    stub.script = lambda request: part(b"x", total=1)
    backend = backend_of(stub.endpoint, access_key="", secret_key="")
    assert content(backend, "a ü/b+c") == b"x"
    assert stub.requests[0].target == f"/{BUCKET}/a%20%C3%BC/b%2Bc"
    backend.put("k", b"x", "", ())
    assert ["authorization" in request.fields for request in stub.requests] == [False, False]


def test_it_is_closed_without_ado(backend: S3Backend) -> None:
    backend.close()
