"""The Azure back end against a real server (Azurite), and against a scripted one for what real ones seldom do."""

from __future__ import annotations

import contextlib
import enum
import errno
import http.client
import itertools
import os
import secrets
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kcistorage_parts import azure, connections
from kcistorage_parts.azure import AzureBackend, blob_name, in_byte_order, key_of
from kcistorage_parts.connections import Properties
from kcistorage_test import azurite
from kcistorage_test.azurite import ACCOUNT, KEY
from kcistorage_test.parts_at_hand import needs, needs_library

MIB = 1 << 20
BLOCK = AzureBackend.BLOCK_BYTES
TYPE = "application/x-test; charset=utf-8"
TAGS = [("owner", "lab@example.org"), ("retention", "6m")]


@pytest.fixture(scope="module")
def url() -> str:
    return azurite.running()


@pytest.fixture
def container(url: str) -> str:
    return azurite.new_container(url)


OPEN: list[AzureBackend] = []


def backend_of(url: str, container: str, **changes: Any) -> AzureBackend:
    """One that is closed when the test ends."""
    needs_library("azure.storage.blob")
    told = {"account": ACCOUNT, "key": KEY, "container": container, "endpoint": url}
    OPEN.append(AzureBackend(**{**told, **changes}))
    return OPEN[-1]


def sas_backend(url: str, **changes: Any) -> AzureBackend:
    """One for a scripted server, to which any signature will do."""
    return backend_of(url, "box", **{"key": "", "sastoken": "sig=x", **changes})


@pytest.fixture
def backend(url: str, container: str) -> AzureBackend:
    return backend_of(url, container)


@pytest.fixture
def theirs(url: str, container: str) -> Iterator[Any]:
    """The library's own client of the same container."""
    with contextlib.closing(azurite.client(url, container)) as client:
        yield client


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(azure, "FIRST_PAUSE_SECONDS", 0.001)
    yield
    while OPEN:
        OPEN.pop().close()


def read(backend: AzureBackend, key: str, start: int, stop: int, etag: str = "") -> Optional[tuple[Properties, bytes]]:
    """All of a reply."""
    found = backend.read(key, start, stop, etag)
    return None if found is None else (found[0], found[1] + b"".join(found[2]))


def content(backend: AzureBackend, key: str) -> Optional[bytes]:
    found = read(backend, key, 0, 1 << 40)
    return None if found is None else found[1]


def failing(number: int, call: Callable[[], object]) -> str:
    """The text of the OSError with this errno that a call has to raise."""
    with pytest.raises(OSError, match=r"blob service|version|container") as caught:
        call()
    assert caught.value.errno == number, repr(caught.value)
    return str(caught.value)


# ---- A scripted server


class End(enum.Enum):
    """Ways not to answer."""

    CLOSE = "hang up"
    RESET = "hang up rudely"


class Cut(bytes):
    """Bytes after which the connection ends."""


class Heard(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]  # names in small letters
    body: bytes

    @property
    def comp(self) -> str:
        return parse_qs(urlsplit(self.target).query).get("comp", [""])[0]


Answer = Union[bytes, End]


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A reply as Azure makes it; x_ms_error_code="" leaves x-ms-error-code out."""
    always = {"Content-Length": str(len(body)), "ETag": '"0x1"', "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT"}
    named = {**always, **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in named.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ranged(body: bytes, start: int, size: int) -> bytes:
    return reply(206, body, Content_Range=f"bytes {start}-{start + len(body) - 1}/{size}", Content_Type=TYPE)


class Conversation(socketserver.StreamRequestHandler):
    server: Stub

    def handle(self) -> None:
        next(self.server.connections)
        while line := self.rfile.readline().decode():
            method, target, _ = line.split()
            headers = {name.lower(): value for name, value in http.client.parse_headers(self.rfile).items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            self.server.heard.append(Heard(method, target, headers, body))
            answer = self.server.answer(self.server.heard[-1])
            if answer is End.RESET:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if isinstance(answer, End):
                return
            self.wfile.write(answer)
            if isinstance(answer, Cut):
                return


class Stub(socketserver.ThreadingTCPServer):
    """Answers every request with what `answer` makes of it, and remembers it."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, tls: Optional[ssl.SSLContext] = None) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.answer: Callable[[Heard], Answer] = lambda heard: reply(404)
        self.heard: list[Heard] = []
        self.url = f"{'https' if tls else 'http'}://localhost:{self.server_address[1]}/{ACCOUNT}"
        self.connections = itertools.count()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may hang up."""

    def say(self, *answers: Answer) -> None:
        """These one after the other, the last for all that follows."""
        line = itertools.chain(answers, itertools.repeat(answers[-1]))
        self.answer = lambda heard: next(line)


@contextlib.contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    thread = threading.Thread(target=stub.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield stub
    stub.shutdown()
    stub.server_close()
    thread.join(5)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub()) as stub:
        yield stub


def via(url: str, heard: Heard) -> bytes:
    """What the server at `url` answers to this request."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)) as connection:
        connection.request(heard.method, heard.target, heard.body or None, heard.headers)
        response = connection.getresponse()
        headers, body = response.headers, response.read()
    names = "ETag", "Last-Modified", "Content-Type", "Content-Range", "x-ms-error-code"
    named = {name: headers[name] for name in names if headers[name]}
    return reply(response.status, body, **named, Content_Length=headers["Content-Length"] or str(len(body)))


def losing(url: str, stub: Stub, method: str, comp: str = "") -> None:
    """Makes the stub pass everything on, and lose the first answer to a request of this kind."""
    losses = itertools.count()

    def answer(heard: Heard) -> Answer:
        answered = via(url, heard)
        return End.CLOSE if (heard.method, heard.comp) == (method, comp) and next(losses) == 0 else answered

    stub.answer = answer


# ---- Objects


@pytest.mark.parametrize("size", [0, 1, 5_000, 3 * MIB])
def test_an_object_comes_back_as_it_was_stored(backend: AzureBackend, size: int) -> None:
    data = os.urandom(size)
    stored = backend.put("job/x.bin", data, TYPE, TAGS)
    assert stored == Properties(size, stored.etag, stored.modified, TYPE)
    assert stored.etag[0] == stored.etag[-1] == '"'
    assert abs(stored.modified - time.time()) < 60
    assert backend.stat("job/x.bin") == stored
    assert read(backend, "job/x.bin", 0, size) == (stored, data)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (0, 10), (3, 7), (9, 10), (9, 99), (0, 1 << 40), (10, 11), (99, 100), (0, 0), (4, 4), (10, 10), (7, 3)],
)
def test_a_range_is_what_a_slice_would_be(backend: AzureBackend, start: int, stop: int) -> None:
    backend.put("x", b"0123456789", TYPE, ())
    assert read(backend, "x", start, stop) == (backend.stat("x"), b"0123456789"[start:stop])


def test_what_is_not_there(backend: AzureBackend) -> None:
    assert backend.stat("x") is None
    assert read(backend, "x", 0, 1) is None
    assert backend.delete("x") is False
    assert list(backend.keys()) == []


def test_a_version_is_read_or_nothing(backend: AzureBackend) -> None:
    old = backend.put("x", b"old", TYPE, ())
    assert read(backend, "x", 0, 9, old.etag) == (old, b"old")
    new = backend.put("x", b"", TYPE, ())
    assert new.etag != old.etag
    assert read(backend, "x", 0, 9, new.etag) == (new, b"")
    failing(errno.ESTALE, lambda: read(backend, "x", 0, 9, old.etag))
    failing(errno.ESTALE, lambda: read(backend, "x", 99, 100, old.etag))
    backend.delete("x")
    failing(errno.ESTALE, lambda: read(backend, "x", 0, 9, new.etag))


def test_an_object_that_changes_between_two_requests(stub: Stub) -> None:
    """The server says that it has no such range, and then that the object has."""
    stub.say(reply(416), reply(200, Content_Length="5"), ranged(b"01234", 0, 5))
    backend = sas_backend(stub.url)
    assert content(backend, "x") == b"01234"
    assert [heard.headers.get("if-match") for heard in stub.heard] == [None, None, '"0x1"']
    for size in ("0", "5"):
        stub.say(reply(416), reply(200, Content_Length=size))
        failing(errno.ESTALE, lambda: read(backend, "x", 0, 9, '"0x2"'))
    stub.say(reply(416), reply(404))
    assert read(backend, "x", 0, 9) is None


def test_delete_of_a_version(backend: AzureBackend) -> None:
    old, new = backend.put("x", b"old", TYPE, ()), backend.put("x", b"new", TYPE, ())
    assert not backend.delete("x", old.etag)
    assert content(backend, "x") == b"new"
    assert backend.delete("x", new.etag)
    assert not backend.delete("x", new.etag)
    assert backend.stat("x") is None


def stored_by_upload(backend: AzureBackend, key: str, blocks: Sequence[bytes]) -> Properties:
    with backend.upload(key, TYPE, TAGS) as upload:
        for block in blocks:
            upload.write(block)
        return upload.commit()


@pytest.mark.parametrize("large", [False, True])
def test_tags_and_type_are_stored(backend: AzureBackend, theirs: Any, large: bool) -> None:
    """UP-12: characters outside of [A-Za-z0-9_.-] become underscores."""
    if large:
        stored_by_upload(backend, "x", [b"data"])
    else:
        backend.put("x", b"data", TYPE, TAGS)
    client = theirs.get_blob_client("x")
    assert client.get_blob_tags() == {"owner": "lab_example.org", "retention": "6m"}
    assert client.get_blob_properties().content_settings.content_type == TYPE


def test_tags_are_cut_to_what_azure_takes(backend: AzureBackend, theirs: Any) -> None:
    backend.put("x", b"", TYPE, [("n" * 200, "ü" * 300), ("empty", "")])
    assert theirs.get_blob_client("x").get_blob_tags() == {"n" * 128: "_" * 256, "empty": ""}


# ---- Uploads in blocks


@pytest.mark.parametrize("sizes", [[], [1], [BLOCK], [BLOCK, BLOCK], [BLOCK, BLOCK, BLOCK, BLOCK, BLOCK, 5]])
def test_blocks_come_back_in_their_order(backend: AzureBackend, sizes: list[int]) -> None:
    blocks = [os.urandom(size) for size in sizes]
    stored = stored_by_upload(backend, "x", blocks)
    assert stored == backend.stat("x")
    assert stored.size == sum(sizes)
    assert content(backend, "x") == b"".join(blocks)


def test_an_upload_that_is_left_leaves_the_old_object(backend: AzureBackend) -> None:
    """UP-8"""
    old = backend.put("x", b"old", TYPE, ())
    for key in ("x", "y"):
        with contextlib.suppress(EOFError), backend.upload(key, TYPE, TAGS) as upload:
            upload.write(b"new")
            raise EOFError
        upload._pool.shutdown()  # until the block has got there
    assert read(backend, "x", 0, 9) == (old, b"old")
    assert backend.stat("y") is None
    assert list(backend.keys()) == ["x"]


def test_an_object_appears_at_once(backend: AzureBackend) -> None:
    """UP-8"""
    with backend.upload("x", TYPE, ()) as upload:
        upload.write(b"a")
        upload.write(b"b")
        upload._pool.shutdown()
        assert backend.stat("x") is None
        upload.commit()
        assert content(backend, "x") == b"ab"


@pytest.mark.parametrize("old", [None, b"old"])
def test_of_two_uploads_at_once_one_fails_and_nothing_is_mixed(backend: AzureBackend, old: Optional[bytes]) -> None:
    """UP-8, UP-9: a commit throws the other's blocks away."""
    if old:
        backend.put("x", old, TYPE, ())
    with backend.upload("x", TYPE, TAGS) as first, backend.upload("x", TYPE, TAGS) as second:
        for upload, block in ((first, b"1"), (second, b"2"), (first, b"1")):
            upload.write(block)
        for upload in (first, second):
            upload._pool.shutdown()
        first.commit()
        assert "InvalidBlockList" in failing(errno.EIO, second.commit)
    assert content(backend, "x") == b"11"


def test_memory_does_not_grow_with_the_object(stub: Stub) -> None:
    """UP-7: four blocks are under way, and one is with the caller."""
    program = (
        "import resource, sys\n"
        "from kcistorage_parts.azure import AzureBackend\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "backend = AzureBackend(account='account', sastoken='sig=x', container='box', endpoint=sys.argv[1])\n"
        "backend.check()\n"
        "before = peak()\n"
        "with backend.upload('x', 'a/b', ()) as upload:\n"
        "    for number in range(64):\n"
        "        upload.write(bytes([number]) * backend.BLOCK_BYTES)\n"
        "    assert upload.commit().size == 256 << 20\n"
        "print(peak() - before)\n"
    )
    stub.answer = lambda heard: reply(404 if heard.method == "HEAD" else 201)
    command = [sys.executable, "-c", program, stub.url]
    root = Path(azure.__file__).parent.parent
    grown = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=60).stdout
    assert float(grown) < 40
    assert sum(len(heard.body) for heard in stub.heard) > 256 * MIB


# ---- Keys

ODD_KEYS = [
    "sp ace",
    "pl+us",
    "per%cent %41",
    "eq=~;,&amp;<x>",
    "h#a?b:c@d|e",
    "quo'te\"s`",
    "back\\slash",
    "ü/€/😀",
    "a..b/..c",
    "dot.",
    "dots.../x./y",
    "%25%2E%5C%",
    "%%5C\\%2.",
    "\ufffe\uffff\ufffd",
    "%EF%BF%BE",
    "d\N{COMBINING DIAERESIS}\xa0",
    "l" * 1024,
]


@pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
def test_an_odd_key_is_the_same_to_everybody(backend: AzureBackend, theirs: Any, key: str) -> None:
    """UP-3: under its own name, unless that is one which the service would change."""
    backend.put(key, b"ours", TYPE, ())
    assert content(backend, key) == b"ours"
    assert list(backend.keys()) == [key]
    assert [item.name for item in theirs.list_blobs()] == [blob_name(key)]
    assert theirs.download_blob(blob_name(key)).readall() == b"ours"
    theirs.upload_blob(blob_name(key), b"theirs", overwrite=True)
    assert content(backend, key) == b"theirs"
    assert backend.delete(key)
    assert list(theirs.list_blobs()) == []


def test_no_object_takes_the_place_of_another(backend: AzureBackend) -> None:
    """Azure would take all keys of a line for the same."""
    keys = ["a/b", "a\\b", "a./b", "a.\\b", "a%5Cb", "a%255Cb"], ["c", "c.", "c..", "c%2E", "c%2e"]
    for key in itertools.chain(*keys):
        backend.put(key, key.encode(), TYPE, ())
    assert [content(backend, key) for key in itertools.chain(*keys)] == [key.encode() for key in itertools.chain(*keys)]
    assert list(backend.keys()) == sorted(itertools.chain(*keys))


ODD_TEXT = st.text(st.sampled_from("%25EFBD.\\/aZ~\ue000\uff01\uffef\ufffe\uffff\U0001f600"), max_size=12)


@given(ODD_TEXT | st.text())
def test_names_lead_back_to_their_keys(key: str) -> None:
    """Invariant: every key has a name of its own, which Azure leaves as it is."""
    name = blob_name(key)
    assert key_of(name) == key
    assert "\\" not in name
    assert not any(segment.endswith(".") for segment in name.split("/"))


@given(st.sets(ODD_TEXT), st.sampled_from(["utf-8", "utf-16-be"]))
def test_keys_come_in_byte_order(keys: set[str], encoding: str) -> None:
    """LS-1; Invariant: whichever of the two orders the names come in."""
    names = sorted(map(blob_name, keys), key=lambda name: name.encode(encoding))
    assert list(in_byte_order(iter(names))) == sorted(keys, key=str.encode)


def test_what_is_in_order_does_not_wait() -> None:
    """LS-1: of a million keys none is held back for what may come."""
    names = itertools.chain(["a%5Cb", "b", "c"], iter(lambda: pytest.fail("the next page was asked for"), None))
    assert list(itertools.islice(in_byte_order(names), 3)) == ["a\\b", "b", "c"]


def test_a_listing_goes_over_many_pages(backend: AzureBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """LS-1"""
    keys = [
        "A",
        "a b",
        "a+b",
        "a/\U0001f600",
        "a/\uff01",
        "a/\ufffe",
        "a/x&y",
        "a/z",
        "a\\0",
        "b.",
        "b.c",
        "b/1",
        "b/%2E",
        "ü",
    ]
    for key in keys:
        backend.put(key, b"", TYPE, ())
    monkeypatch.setattr(azure, "LIST_PAGE", 2)
    assert list(backend.keys()) == sorted(keys, key=str.encode)
    for prefix in ("a", "a/", "a+", "a/\U0001f600", "a\\", "a/\uff01", "b.", "b/%2", "b/%2E", "B", "%", "ü"):
        assert list(backend.keys(prefix)) == sorted(key for key in keys if key.startswith(prefix)), prefix


def list_page(names: Sequence[str], marker: str = "") -> bytes:
    blobs = "".join(f"<Blob>{name}</Blob>" for name in names)
    return f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>".encode()


def test_pages_are_fetched_when_they_are_wanted(stub: Stub) -> None:
    """LS-1"""
    pages = [list_page(["<Name>a</Name>"], "2/&amp;"), list_page(['<Name Encoded="true">b%20%EF%BF%BE</Name>'])]
    stub.say(*(reply(200, page) for page in pages))
    keys = sas_backend(stub.url).keys("p ü")
    assert stub.heard == []
    assert list(keys) == []  # none has the prefix
    assert "p%20%C3%BC" in stub.heard[0].target
    queries = [parse_qs(urlsplit(heard.target).query, keep_blank_values=True) for heard in stub.heard]
    assert [(query["prefix"], query["marker"]) for query in queries] == [(["p ü"], [""]), (["p ü"], ["2/&"])]
    stub.say(*(reply(200, page) for page in pages))
    keys = sas_backend(stub.url).keys()
    assert next(keys) == "a"
    assert len(stub.heard) == 3
    assert list(keys) == ["b \ufffe"]


# ---- Claims


def test_a_claim_is_for_one(backend: AzureBackend) -> None:
    first = backend.claim("lock", "", b"1")
    assert first == getattr(backend.stat("lock"), "etag", None)
    assert backend.claim("lock", "", b"2") == ""
    second = backend.claim("lock", first, b"3")
    assert second not in ("", first)
    assert backend.claim("lock", first, b"4") == ""
    assert content(backend, "lock") == b"3"
    assert backend.delete("lock", second)
    assert backend.claim("lock", second, b"5") == ""
    assert backend.stat("lock") is None


def test_of_many_that_claim_at_once_one_wins(backend: AzureBackend) -> None:
    with ThreadPoolExecutor(16) as pool:
        claims = list(pool.map(lambda number: backend.claim("lock", "", b"%d" % number), range(16)))
    (winner,) = [number for number, etag in enumerate(claims) if etag]
    assert read(backend, "lock", 0, 9, claims[winner]) == (backend.stat("lock"), b"%d" % winner)


@pytest.mark.parametrize("etag", ["", "held"])
def test_a_claim_whose_answer_is_lost_is_won(url: str, container: str, stub: Stub, etag: str) -> None:
    direct = backend_of(url, container)
    held = direct.claim("lock", "", b"held") if etag else ""
    losing(url, stub, "PUT")
    backend = backend_of(stub.url, container)
    won = backend.claim("lock", held, b"mine")
    assert won
    losing(url, stub, "PUT")
    assert backend.claim("lock", held, b"too late") == ""
    assert read(direct, "lock", 0, 9, won) == (direct.stat("lock"), b"mine")


# ---- Answers that are lost


def test_an_upload_whose_commit_is_not_answered(url: str, container: str, stub: Stub) -> None:
    losing(url, stub, "PUT", "blocklist")
    backend = backend_of(stub.url, container)
    stored = stored_by_upload(backend, "x", [b"a", b"b"])
    assert [heard.comp for heard in stub.heard].count("blocklist") == 2
    assert read(backend, "x", 0, 9) == (stored, b"ab")


def test_a_block_whose_answer_is_lost(url: str, container: str, stub: Stub) -> None:
    losing(url, stub, "PUT", "block")
    backend = backend_of(stub.url, container)
    stored_by_upload(backend, "x", [b"a", b"b", b"c"])
    assert content(backend, "x") == b"abc"
    assert [heard.comp for heard in stub.heard].count("block") == 4


def test_a_delete_whose_answer_is_lost(url: str, container: str, stub: Stub) -> None:
    backend = backend_of(stub.url, container)
    losing(url, stub, "PUT", "none of these")
    backend.put("x", b"", TYPE, ())
    losing(url, stub, "DELETE")
    assert backend.delete("x") is True
    assert backend.delete("x") is False


# ---- What is configured, and who may


def sas(container: str, rights: str) -> str:
    expiry = datetime.now(timezone.utc) + timedelta(hours=1)
    sign = needs_library("azure.storage.blob").generate_container_sas
    return str(sign(ACCOUNT, container, KEY, permission=rights, expiry=expiry))


@pytest.mark.parametrize("before", ["", "?"])
def test_a_sas_in_place_of_the_key(url: str, container: str, before: str) -> None:
    backend = backend_of(url, container, key="", sastoken=before + sas(container, "rwdl"))
    backend.check()
    stored_by_upload(backend, "a b+c", [b"a"])
    assert list(backend.keys("a")) == ["a b+c"]
    assert content(backend, "a b+c") == b"a"
    assert backend.delete("a b+c")


def test_a_sas_that_permits_too_little(url: str, container: str) -> None:
    backend = backend_of(url, container, key="", sastoken=sas(container, "r"))
    backend.check()
    failing(errno.EACCES, lambda: backend.put("x", b"", TYPE, ()))
    failing(errno.EACCES, lambda: next(backend.keys()))


def test_a_wrong_key(url: str, container: str) -> None:
    backend = backend_of(url, container, key="c29tZSBvdGhlciBrZXk=")
    failing(errno.EACCES, backend.check)
    failing(errno.EACCES, lambda: backend.stat("x"))
    failing(errno.EACCES, lambda: backend.put("x", b"", TYPE, TAGS))


def test_a_container_that_is_not_there(url: str) -> None:
    backend = backend_of(url, "no-such-container")
    with pytest.raises(FileNotFoundError):
        backend.check()
    for call in (
        lambda: backend.stat("x"),
        lambda: read(backend, "x", 0, 1),
        lambda: backend.put("x", b"", TYPE, TAGS),
        lambda: backend.claim("x", "", b""),
        lambda: backend.delete("x"),
        lambda: next(backend.keys()),
    ):
        assert "ContainerNotFound" in failing(errno.EIO, call)


def test_a_container_that_is_there(backend: AzureBackend) -> None:
    backend.check()


def test_a_signature_is_made_anew(url: str, container: str, monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    """The service takes the old one for an hour longer."""
    stub.answer = lambda heard: via(url, heard)
    now = time.time()
    backend = backend_of(stub.url, container)
    for hours in (-1, 0, 0, 1):
        monkeypatch.setattr(time, "time", lambda hours=hours: now + hours * 3600)
        assert backend.stat("x") is None
    monkeypatch.undo()
    signed = [parse_qs(urlsplit(heard.target).query)["sig"] for heard in stub.heard]
    assert signed[1] == signed[2]
    assert len(set(map(tuple, signed))) == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"account": ""}, "account"),
        ({"account": "evil.example/"}, "account"),
        ({"container": ""}, "container"),
        ({"container": "a--b"}, "container"),
        ({"container": "../other"}, "container"),
        ({"container": "c" * 64}, "container"),
        ({"key": ""}, "key"),
        ({"sastoken": "sig=x"}, "key"),
        ({"key": "not base64!"}, "key"),
        ({"endpoint": "localhost:10000"}, "endpoint"),
        ({"endpoint": "ftp://localhost"}, "endpoint"),
        ({"endpoint": "https://"}, "endpoint"),
        ({"endpoint": "https://localhost:port"}, "endpoint"),
        ({"endpoint": "https://localhost/x?sig=y"}, "endpoint"),
    ],
)
def test_what_can_never_work_is_refused(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}") as caught:
        backend_of(**{"url": "http://localhost", "container": "abc", **wrong})
    assert not any(secret in str(caught.value) for secret in ("not base64!", "sig=", KEY))


def test_the_public_cloud_is_where_no_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def connect(address: tuple[str, int], seconds: float, *rest: object) -> socket.socket:
        asked.append((*address, seconds))
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ConnectionError):
        backend_of("", "abc", attempts=1).check()
    assert asked == [(f"{ACCOUNT}.blob.core.windows.net", 443, 5.0)]


# ---- Tags that are not allowed


def test_without_tags_where_these_are_not_permitted(stub: Stub) -> None:
    """UP-12: told once, and from then on not tried."""
    stub.answer = lambda heard: reply(403 if "x-ms-tags" in heard.headers else 201, x_ms_error_code="NoTags")
    told: list[str] = []
    backend = sas_backend(stub.url, warn=told.append)
    backend.put("x", b"1", TYPE, TAGS)
    stored_by_upload(backend, "x", [b"2"])
    backend.put("x", b"3", TYPE, TAGS)
    assert len(told) == 1
    assert "NoTags" in told[0]
    assert [heard.body for heard in stub.heard if not heard.comp] == [b"1", b"1", b"3"]
    assert [heard.headers.get("x-ms-tags") for heard in stub.heard] == ["owner=lab_example.org&retention=6m"] + [
        None
    ] * 4


def test_tags_stay_where_something_else_was_wrong(stub: Stub) -> None:
    told: list[str] = []
    backend = sas_backend(stub.url, warn=told.append)
    stub.say(reply(403), reply(403), reply(201))
    failing(errno.EACCES, lambda: backend.put("x", b"", TYPE, TAGS))
    backend.put("x", b"", TYPE, TAGS)
    assert ["x-ms-tags" in heard.headers for heard in stub.heard] == [True, False, True]
    assert told == []


# ---- Faults


WHOLE = ranged(b"01234", 0, 5)
BAD = [
    End.CLOSE,
    End.RESET,
    reply(500),
    reply(503),
    reply(429),
    Cut(WHOLE[:-2]),
    Cut(WHOLE[:30]),
    Cut(b"what?\r\n\r\n"),
]


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_a_passing_fault_is_not_seen(stub: Stub, bad: Answer) -> None:
    stub.say(bad, bad, WHOLE)
    found = read(sas_backend(stub.url), "x", 0, 9)
    assert found == (Properties(5, '"0x1"', 784111777, TYPE), b"01234")
    assert len(stub.heard) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        Cut(WHOLE[:-2]),
        ranged(b"0123", 0, 5),
        ranged(b"01234", 1, 6),
        ranged(b"0123456789", 0, 10),
        reply(200, b"01234"),
        reply(206, b"01234"),
        reply(206, b"01234", Content_Range="bytes 0-4/*"),
        reply(206, b"0123", Content_Range="bytes 0-4/5"),
    ],
    ids=repr,
)
def test_other_bytes_than_were_asked_for_are_no_answer(stub: Stub, wrong: bytes) -> None:
    """DL-7"""
    stub.say(wrong)
    with pytest.raises(ConnectionError):
        read(sas_backend(stub.url, attempts=2), "x", 0, 6)
    assert len(stub.heard) == 2


@pytest.mark.parametrize(
    ("status", "number", "attempts"),
    [
        (500, errno.EBUSY, 4),
        (503, errno.EBUSY, 4),
        (429, errno.EBUSY, 4),
        (400, errno.EIO, 1),
        (401, errno.EACCES, 1),
        (403, errno.EACCES, 1),
        (409, errno.EIO, 1),
        (301, errno.EIO, 1),
    ],
)
def test_every_refusal_has_its_class(stub: Stub, status: int, number: int, attempts: int) -> None:
    stub.say(reply(status, x_ms_error_code="ServerBusy\x1b"))
    backend = sas_backend(stub.url)
    calls: list[Callable[[], object]] = [
        backend.check,
        lambda: backend.stat("x"),
        lambda: read(backend, "x", 0, 1),
        lambda: backend.put("x", b"data", TYPE, ()),
        lambda: stored_by_upload(backend, "x", [b"data"]),
        lambda: next(backend.keys()),
        lambda: backend.delete("x"),
        lambda: backend.claim("x", "", b"data"),
    ]
    for call in calls:
        stub.heard.clear()
        assert failing(number, call).endswith(f"{status} ServerBusy")
        assert len(stub.heard) == attempts


def test_pauses_grow(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pauses: list[float] = []
    stub.say(reply(503))
    backend = sas_backend(stub.url)
    monkeypatch.setattr(backend._closed, "wait", pauses.append)
    failing(errno.EBUSY, lambda: backend.stat("x"))
    assert [least <= pause <= 1.5 * least for least, pause in zip((0.2, 0.4, 0.8), pauses)] == [True] * 3


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        backend = sas_backend(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ConnectionError, match="refused"):
            backend.stat("x")


@pytest.mark.parametrize("size", [None, 16 * MIB])
def test_a_server_that_keeps_silent(size: Optional[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does it answer a read, nor does it take what is to be put; though it takes the connection."""
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        backend = sas_backend(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_seconds=0.15, attempts=2)
        before = time.monotonic()
        with pytest.raises(TimeoutError):  # the builtin one, also before Python 3.10
            read(backend, "x", 0, 1) if size is None else backend.put("x", bytes(size), TYPE, ())
        assert 0.3 <= time.monotonic() - before < 3


@pytest.mark.parametrize(
    "answer", [reply(200, ETag=""), reply(200, Last_Modified="today"), reply(200, Last_Modified="")]
)
def test_what_is_no_blob_service(stub: Stub, answer: bytes) -> None:
    stub.say(answer)
    with pytest.raises(ConnectionError):
        sas_backend(stub.url).stat("x")


def test_a_list_that_is_no_list(stub: Stub) -> None:
    stub.say(reply(200, list_page(["<Name>a</Name>"])[:-5]))
    with pytest.raises(ConnectionError):
        list(sas_backend(stub.url).keys())


@pytest.mark.parametrize("answer", [*BAD, reply(403), reply(400), reply(412), reply(200)], ids=repr)
def test_no_secret_is_in_an_error(stub: Stub, answer: Answer) -> None:
    stub.say(answer)
    backend = sas_backend(stub.url, sastoken="sig=c2VjcmV0", attempts=2)

    def check(call: Callable[[], object]) -> None:
        try:
            call()
        except OSError:
            assert "c2VjcmV0" not in traceback.format_exc()
        else:
            pytest.fail("that was no error")

    check(lambda: read(backend, "x", 0, 1))
    check(lambda: backend.put("x", b"", TYPE, ()))
    check(lambda: list(backend.keys()))
    assert all("sig=c2VjcmV0" in heard.target for heard in stub.heard)


class Hasty(socketserver.BaseRequestHandler):
    """Answers by what it hears first, and hangs up on the rest."""

    def handle(self) -> None:
        self.request.recv(1_024)
        self.request.sendall(reply(403, x_ms_error_code="Hasty"))


def test_a_refusal_before_all_was_sent_is_heard(stub: Stub) -> None:
    stub.RequestHandlerClass = Hasty
    assert "Hasty" in failing(errno.EACCES, lambda: sas_backend(stub.url).put("x", bytes(16 * MIB), TYPE, ()))


# ---- Blocks under way


def test_four_blocks_are_sent_at_once(stub: Stub) -> None:
    four = threading.Barrier(4, timeout=10)
    counting, now, most = threading.Lock(), 0, 0

    def answer(heard: Heard) -> bytes:
        nonlocal now, most
        if heard.comp == "block":
            with counting:
                now += 1
                most = max(most, now)
            four.wait()
            with counting:
                now -= 1
        return reply(201)

    stub.answer = answer
    stored_by_upload(sas_backend(stub.url), "x", [b"%d" % number for number in range(16)])
    assert most == 4
    blocks = [parse_qs(urlsplit(heard.target).query)["blockid"][0] for heard in stub.heard if heard.comp == "block"]
    assert len(set(blocks)) == 16
    assert len({len(block) for block in blocks}) == 1
    assert len({block[:12] for block in blocks}) == 1
    listed = stub.heard[-1].body.decode()
    assert sorted(blocks) == sorted(listed.replace("</Latest>", "<Latest>").split("<Latest>")[1::2])


def test_no_two_uploads_have_a_block_in_common(stub: Stub) -> None:
    stub.say(reply(201))
    for _ in range(2):
        stored_by_upload(sas_backend(stub.url), "x", [b"a"])
    assert len({heard.body for heard in stub.heard if heard.comp == "blocklist"}) == 2


def test_a_block_that_fails_is_told_early(stub: Stub) -> None:
    told = threading.Event()
    stub.answer = lambda heard: reply(400) if heard.body == b"bad" else reply(201 if told.wait(10) else 500)
    with sas_backend(stub.url).upload("x", TYPE, ()) as upload:
        upload.write(b"bad")
        failing(errno.EIO, lambda: list(map(upload.write, [b"good"] * 4)))
        told.set()
    assert all(heard.comp == "block" for heard in stub.heard)


def test_an_upload_that_is_left_tries_no_more(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure, "FIRST_PAUSE_SECONDS", 60)
    asked = threading.Event()

    def answer(heard: Heard) -> bytes:
        asked.set()
        return reply(503)

    stub.answer = answer
    before = set(threading.enumerate())  # of other uploads, which end by and by
    with sas_backend(stub.url).upload("x", TYPE, ()) as upload:
        upload.write(b"a")
        assert asked.wait(5)
        sending = set(threading.enumerate()) - before
        threads = [thread for thread in sending if thread.name.startswith("azure-block")]
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert len(stub.heard) == len(threads) == 1


def test_close_ends_the_attempts(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure, "FIRST_PAUSE_SECONDS", 60)
    backend = sas_backend(stub.url)

    def answer(heard: Heard) -> bytes:
        backend.close()
        return reply(503)

    stub.answer = answer
    failing(errno.EBUSY, lambda: backend.stat("x"))


# ---- Connections


def test_a_connection_is_kept(stub: Stub) -> None:
    backend = sas_backend(stub.url)
    for _ in range(5):
        assert backend.stat("x") is None
    assert next(stub.connections) == 1


@pytest.mark.parametrize("last", [Cut(reply(404)), reply(404, Connection="close")])
def test_a_connection_that_the_server_closes_costs_no_attempt(stub: Stub, last: bytes) -> None:
    stub.say(last)
    backend = sas_backend(stub.url, attempts=1)
    for _ in range(3):
        assert backend.stat("x") is None


def test_an_old_connection_is_not_used(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = sas_backend(stub.url)
    assert backend.stat("x") is None
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0)
    assert backend.stat("x") is None
    assert next(stub.connections) == 2
    assert not backend._connections._idle


def test_a_request_that_outlasts_the_close_keeps_no_connection(stub: Stub) -> None:
    backend = sas_backend(stub.url)
    stub.answer = lambda heard: backend.close() or reply(404)  # type: ignore[func-returns-value]
    assert backend.stat("x") is None
    assert not backend._connections._idle


def test_a_server_that_starts_again(tmp_path: Path) -> None:
    """All connections are dead then, and there is one attempt."""
    server = azurite.Azurite(tmp_path)
    try:
        container = azurite.new_container(server.url)
        backend = backend_of(server.url, container, attempts=1)
        with ThreadPoolExecutor(8) as pool:
            stored = list(pool.map(lambda number: backend.put(f"x{number}", b"data", TYPE, ()), range(8)))
        server.stop()
        with pytest.raises(ConnectionError):
            backend.stat("x0")
        server.start()
        assert [backend.stat(f"x{number}") for number in range(8)] == stored
        assert len(backend._connections._idle) == 1
        server.kill()
    finally:
        server.kill()


def test_many_threads_share_the_connections(backend: AzureBackend) -> None:
    def story(number: int) -> bool:
        data = secrets.token_bytes(5_000 + number)
        stored = backend.put(f"x{number}", data, TYPE, ())
        return read(backend, f"x{number}", 0, 9_000) == (stored, data) and backend.delete(f"x{number}", stored.etag)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(story, range(64)))


def test_https_with_a_certificate_that_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    make = [needs("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*make, "-days", "2", *names, *files], check=True, capture_output=True, timeout=30)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    monkeypatch.setenv("no_proxy", "localhost")
    with serving(Stub(tls)) as stub:
        stub.say(WHOLE)
        with pytest.raises(ConnectionError, match="certificate"):
            read(sas_backend(stub.url, attempts=1), "x", 0, 9)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        found = read(sas_backend(stub.url), "x", 0, 9)
    assert found is not None
    assert found[1] == b"01234"
