"""What real clients send, and real clients themselves (UP-1 to UP-7, UP-11, DL-1, DL-2, DL-5, DL-8, AU-1).

First requests as they are on the wire, to the letter; then curl, wget, requests, aiohttp, and nginx in front of it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Union
from urllib.parse import quote

import pytest

from kcistorage_test import parts_at_hand
from kcistorage_test.conftest import EMAIL, Running, Start, token
from kcistorage_test.parts_at_hand import needs, needs_library
from kcistorage_test.talk import Reply
from kcistorage_test.test_handlers import SMALL, contents, sidecar_name, until, values

# ---- The rule for what is not at hand


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
@pytest.mark.parametrize("ask", [needs, needs_library])
def test_what_is_missing_is_skipped_but_not_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException], ask: Callable[[str], object]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no-such-thing is not at hand"):
        ask("no-such-thing")
    assert parts_at_hand.needs(sys.executable)


# ---- Requests to the letter

ODD_NAME = "sp ace%22q\\b-ü€;x=1.txt"

KERNELCI_CORE = """\
POST /upload HTTP/1.1
Host: files.example.org
User-Agent: python-requests/2.32.3
Accept-Encoding: gzip, deflate
Accept: */*
Connection: keep-alive
Authorization: TOKEN
Content-Length: LENGTH
Content-Type: multipart/form-data; boundary=2d6b2ab8a150d37542f319287cea0a6f

--2d6b2ab8a150d37542f319287cea0a6f
Content-Disposition: form-data; name="path"

mainline/v6.10/arm64
--2d6b2ab8a150d37542f319287cea0a6f
Content-Disposition: form-data; name="file0"; filename="dtbs/vendor/board.dtb"

CONTENT
--2d6b2ab8a150d37542f319287cea0a6f--
"""

KERNELCI_CORE_SEVERAL = """\
POST /upload HTTP/1.1
Host: files.example.org
User-Agent: python-requests/2.32.3
Accept-Encoding: gzip, deflate
Accept: */*
Connection: keep-alive
Authorization: TOKEN
Content-Length: LENGTH
Content-Type: multipart/form-data; boundary=18167f88f94d441018743ede60b46ae3

--18167f88f94d441018743ede60b46ae3
Content-Disposition: form-data; name="path"

mainline/v6.10/arm64
--18167f88f94d441018743ede60b46ae3
Content-Disposition: form-data; name="file0"; filename="Image"

CONTENT
--18167f88f94d441018743ede60b46ae3
Content-Disposition: form-data; name="file1"; filename="build.log"

CONTENT of the log
--18167f88f94d441018743ede60b46ae3--
"""

DASHBOARD_INGESTER = """\
POST /upload HTTP/1.1
Host: files.example.org
User-Agent: python-requests/2.31.0
Accept-Encoding: gzip, deflate, br
Accept: */*
Connection: keep-alive
Authorization: Bearer TOKEN
Content-Length: LENGTH
Content-Type: multipart/form-data; boundary=be2feeed90e94a56a95d6fc1a7164acd

--be2feeed90e94a56a95d6fc1a7164acd
Content-Disposition: form-data; name="file0"; filename="b6d81b360a5672d80c27430f39153e2c.gz"

CONTENT
--be2feeed90e94a56a95d6fc1a7164acd
Content-Disposition: form-data; name="path"; filename="path"

logs/b6
--be2feeed90e94a56a95d6fc1a7164acd--
"""

TARBALL_SERVICE = """\
POST /upload HTTP/1.1
Host: files.example.org
User-Agent: python-requests/2.28.1
Accept-Encoding: gzip, deflate
Accept: */*
Connection: keep-alive
Authorization: TOKEN
Content-Length: LENGTH
Content-Type: multipart/form-data; boundary=3d0cb1f3a1d41a3aac8cc98287c295ca

--3d0cb1f3a1d41a3aac8cc98287c295ca
Content-Disposition: form-data; name="path"


--3d0cb1f3a1d41a3aac8cc98287c295ca
Content-Disposition: form-data; name="file0"; filename="linux-mainline-master-v6.10-rc1.tar.gz"

CONTENT
--3d0cb1f3a1d41a3aac8cc98287c295ca--
"""

LAVA_CURL = """\
POST /v1/file HTTP/1.1
Host: files.example.org
User-Agent: curl/7.74.0
Accept: */*
Authorization: Bearer TOKEN
Content-Length: LENGTH
Content-Type: multipart/form-data; boundary=------------------------9065fbf1e7be7608
Expect: 100-continue

--------------------------9065fbf1e7be7608
Content-Disposition: form-data; name="path"

/jobs/20260820/u.yaml
--------------------------9065fbf1e7be7608
Content-Disposition: form-data; name="file0"; filename="u.yaml"
Content-Type: application/octet-stream

CONTENT
--------------------------9065fbf1e7be7608--
"""

LABGRID_AIOHTTP = """\
POST /upload HTTP/1.1
Host: files.example.org
Authorization: Bearer TOKEN
Accept: */*
Accept-Encoding: gzip, deflate
User-Agent: Python/3.11 aiohttp/3.9.5
Content-Length: LENGTH
Content-Type: multipart/form-data; boundary=d7d9d9588c1141999543933a84a201f6

--d7d9d9588c1141999543933a84a201f6
Content-Type: text/plain; charset=utf-8
Content-Disposition: form-data; name="path"

labs/lab-1/board
--d7d9d9588c1141999543933a84a201f6
Content-Type: application/octet-stream
Content-Disposition: form-data; name="file0"; filename="console-2026-08-20.log"

CONTENT
--d7d9d9588c1141999543933a84a201f6--
"""

NGINX_TO_A_BACKEND = """\
POST /upload HTTP/1.0
Host: files.example.org
X-Forwarded-For: 203.0.113.7
Connection: close
Content-Length: LENGTH
user-agent: curl/8.5.0
accept: */*
authorization: Bearer TOKEN
content-type: multipart/form-data; boundary=------------------------1f0a

--------------------------1f0a
Content-Disposition: form-data; name="path"

behind/nginx
--------------------------1f0a
Content-Disposition: form-data; name="file0"; filename="x.txt"
Content-Type: text/plain

CONTENT
--------------------------1f0a--
"""

CONTENT = b"\x7fELF \r\n--not-a-boundary\r\n\0" + bytes(range(256))


def on_the_wire(request: str) -> tuple[bytes, bytes]:
    """Head and body of one of the above, with lines ended, token, content and length put in."""
    head, _, body = request.replace("TOKEN", token()).replace("\n", "\r\n").partition("\r\n\r\n")
    sent = body.encode().replace(b"CONTENT", CONTENT)
    return head.replace("LENGTH", str(len(sent))).encode() + b"\r\n\r\n", sent


def replay(server: Running, request: str) -> Reply:
    head, body = on_the_wire(request)
    with server.peer() as peer:
        peer.send(head)
        if b"100-continue" in head:
            assert peer.reply().status == 100
        return peer.send(body).reply()


@pytest.mark.parametrize(
    ("request_text", "key"),
    [
        pytest.param(KERNELCI_CORE, "mainline/v6.10/arm64/dtbs/vendor/board.dtb", id="kernelci-core"),
        pytest.param(DASHBOARD_INGESTER, "logs/b6/b6d81b360a5672d80c27430f39153e2c.gz", id="dashboard-ingester"),
        pytest.param(TARBALL_SERVICE, "linux-mainline-master-v6.10-rc1.tar.gz", id="tarball-service"),
        pytest.param(LAVA_CURL, "jobs/20260820/u.yaml/u.yaml", id="lava-curl"),
        pytest.param(LABGRID_AIOHTTP, "labs/lab-1/board/console-2026-08-20.log", id="labgrid-aiohttp"),
        pytest.param(NGINX_TO_A_BACKEND, "behind/nginx/x.txt", id="nginx"),
    ],
)
def test_replayed(server: Running, request_text: str, key: str) -> None:
    """UP-1, UP-2, UP-3, UP-7, AU-1: exactly 200 and nothing else, and what was sent is what comes back."""
    reply = replay(server, request_text)
    assert (reply.status, reply.body) == (200, b"")
    with server.peer() as peer:
        assert peer.get("/" + key).body == CONTENT
        assert peer.get("/v1/list").text == f"{key}\n"
    assert f"tag-owner:{EMAIL}" in (server.storage / sidecar_name(key)).read_text()


def test_several_files_replayed(server: Running) -> None:
    """UP-5"""
    assert replay(server, KERNELCI_CORE_SEVERAL).status == 200
    with server.peer() as peer:
        assert peer.get("/mainline/v6.10/arm64/Image").body == CONTENT
        assert peer.get("/mainline/v6.10/arm64/build.log").body == CONTENT + b" of the log"


def test_the_same_request_twice_on_a_connection_that_persists(server: Running) -> None:
    """UP-1, DL-8: as a requests.Session does it."""
    request = b"".join(on_the_wire(KERNELCI_CORE))
    with server.peer() as peer:
        assert [peer.send(request).reply().status for _ in range(2)] == [200, 200]
        peer.send(request + request)
        assert [peer.reply().status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        (f'filename="{ODD_NAME}"', ODD_NAME),
        ("filename=plain.txt", "plain.txt"),
        ('filename="quo\\"te"', 'quo"te'),  # curl before 7.81
        ('filename="quo%22te"', "quo%22te"),  # curl since then, browsers, urllib3: nothing is decoded
        ('filename="C:\\dir\\x.txt"', "C:\\dir\\x.txt"),
        ("filename=\"sp%20ace\"; filename*=utf-8''sp%20ace", "sp%20ace"),  # aiohttp before 3.8
        ("filename*=utf-8''other; filename=\"this\"", "this"),
        ('filename="semi;colon=\\"x\\""', 'semi;colon="x"'),
    ],
)
def test_spellings_of_a_filename(server: Running, parameter: str, name: str) -> None:
    """UP-3, DL-1, DL-2"""
    assert replay(server, KERNELCI_CORE.replace('filename="dtbs/vendor/board.dtb"', parameter)).status == 200
    with server.peer() as peer:
        assert peer.get("/v1/list").text == f"mainline/v6.10/arm64/{name}\n"
        reply = peer.get("/mainline/v6.10/arm64/" + quote(name))
    assert reply.body == CONTENT
    saved = re.sub(r'["\\]', "_", name)
    assert reply.fields["content-disposition"].startswith(f'attachment; filename="{saved}"')


@pytest.mark.parametrize("target", ["/a//b/c+d=e.txt", "//a/b//c+d=e.txt", "/a/b/c%2Bd%3De.txt", "/a/b/c+d=e.txt?x=1"])
def test_urls_that_are_out_there(server: Running, target: str) -> None:
    """DL-1"""
    request = KERNELCI_CORE.replace("mainline/v6.10/arm64", "a//b/").replace("dtbs/vendor/board.dtb", "c+d=e.txt")
    assert replay(server, request).status == 200
    with server.peer() as peer:
        assert peer.get(target).body == CONTENT


# ---- Programs


class Front(NamedTuple):
    """A server behind a proxy, which has this port."""

    server: Running
    port: int


Reachable = Union[Running, Front]


def run(*command: str, at: Path, stdin: bytes = b"", expect: int = 0) -> str:
    """The output of a program that runs in the folder `at`, and ends with this exit code; its messages behind it."""
    environment = {**os.environ, "no_proxy": "*", "NO_PROXY": "*", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=at, env=environment, input=stdin, capture_output=True, timeout=30, check=False)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == expect, text
    return text


def url(server: Reachable, path: str) -> str:
    return f"http://127.0.0.1:{server.port}/{path}"


ANSWER = ("-s", "-S", "-w", "%{http_code}")  # for curl: nothing but the body, the status behind it


def curl_upload(server: Reachable, at: Path, *options: str, stdin: bytes = b"", who: str = "") -> str:
    """What an upload by curl prints: the body of the answer, then the status."""
    authorization = f"Authorization: Bearer {who or token()}"
    return run(needs("curl"), *ANSWER, "-H", authorization, *options, url(server, "upload"), at=at, stdin=stdin)


BIG = os.urandom(3 << 20)


def test_curl_there_and_back(server: Running, tmp_path: Path) -> None:
    """UP-1, DL-1: also an odd name, which curl takes from the file."""
    (tmp_path / ODD_NAME).write_bytes(CONTENT)
    quoted = ODD_NAME.replace("\\", "\\\\")
    assert curl_upload(server, tmp_path, "-F", "path=a/b", "-F", f'file0=@"{quoted}"') == "200"
    target = url(server, "a/b/" + quote(ODD_NAME))
    run(needs("curl"), "-sSf", "-o", "back", target, at=tmp_path)
    assert (tmp_path / "back").read_bytes() == CONTENT
    assert ODD_NAME in run(needs("curl"), "-sSf", url(server, "v1/list"), at=tmp_path)


def test_curl_saves_it_under_its_name(server: Running, tmp_path: Path) -> None:
    """DL-2"""
    assert curl_upload(server, tmp_path, "-F", "path=a", "-F", "file0=@-;filename=log x.txt", stdin=CONTENT) == "200"
    run(needs("curl"), "-sSf", "-OJ", url(server, "a/log%20x.txt?download"), at=tmp_path)
    assert (tmp_path / "log x.txt").read_bytes() == CONTENT


def test_curl_waits_for_100(server: Running, tmp_path: Path) -> None:
    """UP-7: as LAVA's test shells upload."""
    (tmp_path / "big").write_bytes(BIG)
    told = curl_upload(
        server, tmp_path, "-v", "-H", "Expect: 100-continue", "-F", "path=/jobs/1/u.yaml", "-F", "file0=@big"
    )
    assert "< HTTP/1.1 100 Continue" in told
    assert "< HTTP/1.1 200 OK" in told
    assert (server.storage / "jobs/1/u.yaml/big").read_bytes() == BIG


def test_curl_is_refused_before_it_sends_its_file(server: Running, tmp_path: Path) -> None:
    """AU-5, UP-11"""
    (tmp_path / "big").write_bytes(BIG)
    options = ("-v", "-H", "Expect: 100-continue", "-F", "path=a", "-F", "file0=@big")
    told = curl_upload(server, tmp_path, *options, who="wrong")
    assert "< HTTP/1.1 401 Unauthorized" in told
    assert "100 Continue" not in told
    assert contents(server.storage) == {}


@pytest.mark.parametrize("status", ["401", "413"])
def test_curl_learns_of_a_refusal_while_it_sends(start: Start, tmp_path: Path, status: str) -> None:
    """UP-11: it does not wait for 100, and finds no broken pipe."""
    server = start(limits=SMALL)
    (tmp_path / "big").write_bytes(BIG * 5)
    options = ("-H", "Expect:", "-F", "path=a", "-F", "file0=@big")
    assert curl_upload(server, tmp_path, *options, who="wrong" if status == "401" else "").endswith(status)


def test_curl_sends_chunks(server: Running, tmp_path: Path) -> None:
    """UP-7: and says no length."""
    (tmp_path / "big").write_bytes(BIG)
    fields = ("-F", "path=a", "-F", "file0=@big")
    told = curl_upload(server, tmp_path, "-v", "-H", "Transfer-Encoding: chunked", *fields)
    assert "> Transfer-Encoding: chunked" in told
    assert "> Content-Length" not in told
    assert "< HTTP/1.1 200 OK" in told
    assert (server.storage / "a" / "big").read_bytes() == BIG


def test_curl_several_files(server: Running, tmp_path: Path) -> None:
    """UP-2, UP-5: in an order of curl's user."""
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"2")
    fields = ("-F", "file1=@two", "-F", "file0=@one;type=text/x-one", "-F", "note=hello", "-F", "path=/p/")
    assert curl_upload(server, tmp_path, *fields) == "200"
    assert run(needs("curl"), "-s", url(server, "v1/list?prefix=p/"), at=tmp_path) == "p/one\np/two\n"


def test_curl_asks_for_less(server: Running, tmp_path: Path) -> None:
    """DL-1, DL-4, DL-5: HEAD, ranges, resumption, and nothing at all where nothing changed."""
    assert curl_upload(server, tmp_path, "-F", "path=a", "-F", "file0=@-;filename=x.bin", stdin=BIG) == "200"
    target, curl = url(server, "a/x.bin"), needs("curl")
    head = run(curl, "-sSI", target, at=tmp_path)
    assert f"Content-Length: {len(BIG)}" in head
    run(curl, "-sS", "-r", "1000-1999", "-o", "part", target, at=tmp_path)
    assert (tmp_path / "part").read_bytes() == BIG[1000:2000]
    (tmp_path / "whole").write_bytes(BIG[:1_000_000])
    assert run(curl, *ANSWER, "-C", "-", "-o", "whole", target, at=tmp_path) == "206"
    assert (tmp_path / "whole").read_bytes() == BIG
    etag = re.search(r"ETag: (\S+)", head)
    assert etag is not None
    assert run(curl, *ANSWER, "-H", f"If-None-Match: {etag[1]}", target, at=tmp_path) == "304"
    modified = re.search(r"Last-Modified: ([^\r\n]+)", head)
    assert modified is not None
    assert run(curl, *ANSWER, "-z", modified[1], "-o", "again", target, at=tmp_path) == "304"


def test_curl_over_http_1_0(server: Running, tmp_path: Path) -> None:
    """DL-8"""
    assert curl_upload(server, tmp_path, "-0", "-F", "path=a", "-F", "file0=@-;filename=x", stdin=CONTENT) == "200"
    run(needs("curl"), "-0", "-sSf", "-o", "back", url(server, "a/x"), at=tmp_path)
    assert (tmp_path / "back").read_bytes() == CONTENT
    assert run(needs("curl"), "-0", "-sSf", url(server, "v1/list"), at=tmp_path) == "a/x\n"


@pytest.fixture
def stored(server: Running) -> str:
    """The path of an object that is in the storage."""
    path = "builds//next/c+d=e~1.img"
    (server.storage / "builds/next").mkdir(parents=True)
    (server.storage / "builds/next/c+d=e~1.img").write_bytes(BIG)
    return path


def wget(server: Running, path: str, at: Path, *options: str) -> str:
    return run(needs("wget"), "--no-proxy", "--tries=1", "--timeout=10", *options, url(server, path), at=at)


def test_wget(server: Running, stored: str, tmp_path: Path) -> None:
    """DL-1: a URL with `//`, `+` and `=`."""
    wget(server, stored, tmp_path)
    assert (tmp_path / "c+d=e~1.img").read_bytes() == BIG


def test_wget_goes_on_where_it_was(server: Running, stored: str, tmp_path: Path) -> None:
    """DL-5"""
    (tmp_path / "c+d=e~1.img").write_bytes(BIG[: len(BIG) // 2])
    wget(server, stored, tmp_path, "-c")
    assert (tmp_path / "c+d=e~1.img").read_bytes() == BIG
    line = values(server.wait_for_log("status=206"))
    assert int(line["bytes"]) == len(BIG) - len(BIG) // 2


def test_wget_has_it_all_already(server: Running, stored: str, tmp_path: Path) -> None:
    """DL-5: 416, and wget is content."""
    (tmp_path / "c+d=e~1.img").write_bytes(BIG)
    assert "nothing to do" in wget(server, stored, tmp_path, "-c")
    assert (tmp_path / "c+d=e~1.img").read_bytes() == BIG
    server.wait_for_log("status=416")


def test_wget_when_newer(server: Running, stored: str, tmp_path: Path) -> None:
    """DL-4: `-N` asks with If-Modified-Since, and keeps the date of the file."""
    for _ in range(2):
        wget(server, stored, tmp_path, "-N")
    modified = int((server.storage / "builds/next/c+d=e~1.img").stat().st_mtime)
    assert int((tmp_path / "c+d=e~1.img").stat().st_mtime) == modified
    server.wait_for_log("status=304")


def test_wget_takes_the_name_it_is_told(server: Running, tmp_path: Path) -> None:
    """DL-2"""
    name = "sp ace-ü€;x=1.txt"
    (server.storage / name).write_bytes(CONTENT)
    wget(server, quote(name) + "?any=query", tmp_path, "--content-disposition")
    assert (tmp_path / name).read_bytes() == CONTENT


# ---- Libraries


def session() -> Any:
    made = needs_library("requests").Session()
    made.trust_env = False  # no proxy, no netrc: a token in one would replace ours
    return made


def test_requests_as_kernelci_core_uses_it(server: Running) -> None:
    """UP-1, UP-3, UP-5, AU-1"""
    with session() as http:
        files = {"file0": ("dtbs/a.dtb", CONTENT), "file1": (ODD_NAME, b"1"), "file2": ("c.log", b"")}
        headers = {"Authorization": token()}
        reply = http.post(url(server, "upload"), headers=headers, data={"path": "a/b"}, files=files, timeout=10)
        assert (reply.status_code, reply.content) == (200, b"")
        for name, content in files.values():
            assert http.get(url(server, "a/b/" + quote(name)), timeout=10).content == content
        reply = http.post(url(server, "upload"), headers=headers, data={"path": ""}, files=files, timeout=10)
        assert reply.status_code == 200
        assert http.get(url(server, "c.log"), timeout=10).headers["Content-Type"] == "text/plain"


def test_requests_as_the_ingester_uses_it(server: Running) -> None:
    """UP-2: a path among the files gets a filename of its own."""
    with session() as http:
        headers = {"Authorization": f"Bearer {token()}"}
        files = {"file0": ("x.gz", CONTENT), "path": "logs/x"}
        assert http.post(url(server, "upload"), headers=headers, files=files, timeout=10).status_code == 200
        reply = http.get(url(server, "logs/x/x.gz"), timeout=10)
        assert reply.content == CONTENT, "and nothing unpacked it on the way"


def test_requests_learns_of_a_refusal_while_it_sends(server: Running) -> None:
    """UP-11: it does not look before it has sent all."""
    with session() as http:
        reply = http.post(url(server, "upload"), data={"path": "a"}, files={"file0": ("x", BIG * 3)}, timeout=30)
        assert (reply.status_code, reply.text) == (401, "Unauthorized")
        assert http.get(url(server, ""), timeout=10).status_code == 200


def test_requests_reads_a_stream(server: Running) -> None:
    """DL-8, LS-1"""
    (server.storage / "x").write_bytes(BIG)
    with session() as http, http.get(url(server, "x"), stream=True, timeout=10) as reply:
        assert b"".join(reply.iter_content(100_000)) == BIG
    with session() as http, http.get(url(server, "v1/list"), stream=True, timeout=10) as reply:
        assert list(reply.iter_lines()) == [b"x"]


async def blocks(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 65_536):
        yield content[at : at + 65_536]


async def aiohttp_upload(server: Running, filename: str, content: object, **options: Any) -> int:
    aiohttp = needs_library("aiohttp")
    form = aiohttp.FormData(**options)
    form.add_field("path", "labs/1")
    form.add_field("file0", content, filename=filename, content_type="application/octet-stream")
    async with aiohttp.ClientSession() as http:
        headers = {"Authorization": f"Bearer {token()}"}
        async with http.post(url(server, "upload"), data=form, headers=headers) as reply:
            return int(reply.status)


def test_aiohttp(server: Running) -> None:
    """UP-1, UP-3: names of its own accord percent-encoded, and stored as they came."""
    assert asyncio.run(aiohttp_upload(server, "console 1.log", CONTENT)) == 200
    assert (server.storage / "labs/1/console%201.log").read_bytes() == CONTENT


def test_aiohttp_leaves_the_name_alone(server: Running) -> None:
    """UP-3: when it is told to; it doubles a backslash then, which the odd name has and this one has not."""
    name = ODD_NAME.replace("\\", "")
    assert asyncio.run(aiohttp_upload(server, name, CONTENT, quote_fields=False)) == 200
    assert (server.storage / "labs/1" / name).read_bytes() == CONTENT


def test_aiohttp_sends_chunks(server: Running) -> None:
    """UP-7"""
    assert asyncio.run(aiohttp_upload(server, "x.img", blocks(BIG))) == 200
    assert (server.storage / "labs/1/x.img").read_bytes() == BIG


def test_aiohttp_reads_in_parallel(server: Running) -> None:
    """DL-6, DL-8"""
    aiohttp = needs_library("aiohttp")
    (server.storage / "x").write_bytes(BIG)

    async def read(http: Any) -> bytes:
        async with http.get(url(server, "x")) as reply:
            return bytes(await reply.read())

    async def read_all() -> list[bytes]:
        async with aiohttp.ClientSession() as http:
            return await asyncio.gather(*(read(http) for _ in range(8)))

    assert asyncio.run(read_all()) == [BIG] * 8


# ---- nginx in front

HTTP_1_0 = "proxy_http_version 1.0;"
STREAMED = "proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off; proxy_set_header Connection '';"

NGINX = """\
daemon off;
worker_processes 1;
pid FOLDER/pid;
error_log FOLDER/error.log;
USER
events { }
http {
    access_log FOLDER/access.log;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    SITE
}
"""

SITE = """\
server {
    listen 127.0.0.1:PORT;
    client_max_body_size 5g;
    location / {
        proxy_pass http://127.0.0.1:BACKEND;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        OPTIONS
    }
}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def nginx(site: str, port: int, folder: Path) -> Iterator[None]:
    """nginx with this site, which listens on this port of loopback; everything it writes is in `folder`."""
    user = "user root root;" if os.geteuid() == 0 else ""  # else its worker may not look into the folder
    text = NGINX.replace("FOLDER", str(folder)).replace("USER", user).replace("SITE", site)
    (folder / "nginx.conf").write_text(text)
    command = [needs("nginx"), "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, process.communicate()[1].decode()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=10)


@pytest.fixture(params=[HTTP_1_0, STREAMED], ids=["http-1.0", "streamed"])
def front(request: pytest.FixtureRequest, start: Start, tmp_path: Path) -> Iterator[Front]:
    """As nginx is by default, and as README advises."""
    server, port = start(), free_port()
    site = SITE.replace("PORT", str(port)).replace("BACKEND", str(server.port)).replace("OPTIONS", request.param)
    folder = tmp_path / "nginx"
    folder.mkdir()
    with nginx(site, port, folder):
        yield Front(server, port)


def test_nginx_there_and_back(front: Front, tmp_path: Path) -> None:
    """UP-1, UP-7, DL-5, DL-8: with a length, in chunks, whole, resumed."""
    (tmp_path / "big").write_bytes(BIG)
    fields = ("-F", "path=a", "-F", "file0=@big")
    assert curl_upload(front, tmp_path, *fields) == "200"
    assert curl_upload(front, tmp_path, *fields, "-H", "Transfer-Encoding: chunked") == "200"
    curl = needs("curl")
    run(curl, "-sSf", "-o", "back", url(front, "a/big"), at=tmp_path)
    assert (tmp_path / "back").read_bytes() == BIG
    (tmp_path / "back").write_bytes(BIG[:1000])
    run(curl, "-sSf", "-C", "-", "-o", "back", url(front, "a/big"), at=tmp_path)
    assert (tmp_path / "back").read_bytes() == BIG


def test_nginx_tells_who_asks(front: Front, tmp_path: Path) -> None:
    """GA-3: nginx appends the address that it sees; what the client wrote to the left of it is not believed."""
    lines = ("-H", "X-Forwarded-For: 198.51.100.9, 203.0.113.7")
    assert run(needs("curl"), *ANSWER, *lines, "-o", "/dev/null", url(front, "seen"), at=tmp_path) == "404"
    assert values(front.server.wait_for_log("/seen"))["ip"] == "203.0.113.7"


def test_nginx_passes_on_a_refusal(front: Front, tmp_path: Path) -> None:
    """UP-11: although it may still be sending the body."""
    (tmp_path / "big").write_bytes(BIG * 5)
    fields = ("-H", "Expect:", "-F", "path=a", "-F", "file0=@big")
    assert curl_upload(front, tmp_path, *fields, who="wrong") == "Unauthorized401"


def test_nginx_passes_on_a_list(front: Front, tmp_path: Path) -> None:
    """LS-1, DL-8: without a length, to the very end."""
    folder = front.server.storage / ("folder" * 20)
    folder.mkdir()
    for number in range(2000):
        (folder / f"{number:05}").touch()
    listed = run(needs("curl"), "-sSf", url(front, "v1/list"), at=tmp_path).splitlines()
    assert listed == [f"{folder.name}/{number:05}" for number in range(2000)]


def test_nginx_keeps_names(front: Front, tmp_path: Path) -> None:
    """DL-1: it normalizes what it looks at, and passes on what it was sent."""
    for key in (ODD_NAME, "c+d=e", "100%"):
        (front.server.storage / key).write_bytes(key.encode())
        assert run(needs("curl"), "-sSf", url(front, "/" + quote(key)), at=tmp_path) == key
