"""What is in deploy/ works as it is: the site in a real nginx, the unit, the log's rotation, alerts and dashboard.

The site listens on ports of loopback here, and has a certificate of its own; all else is as operators get it. Its
clients have addresses in 127.0.0.0/8, of which only nginx's own is a trusted proxy.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

import kcistorage
from kcistorage_parts.metrics import Metrics
from kcistorage_test.conftest import SECRET, Running, Start, token
from kcistorage_test.parts_at_hand import needs
from kcistorage_test.talk import FORM_TYPE, Peer, form
from kcistorage_test.test_clients import free_port, nginx, run
from kcistorage_test.test_command import MINIMAL, certificate
from kcistorage_test.test_docs import TOP, blocks, environment, options, reasons, shell
from kcistorage_test.test_handlers import HalfUpload, until, values

DEPLOY = TOP / "deploy"
SITE = (DEPLOY / "kcistorage.nginx").read_text()
LIMITS = kcistorage.LimitOptions()
LARGE = os.urandom(1 << 20) * 40


def checker(tool: str) -> str:
    """A program that only checks our files, which other tests read as well: without it we can do, in CI too."""
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin") or pytest.skip(f"{tool} is not at hand")


# ---- nginx


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


class Front(NamedTuple):
    """A server, and nginx in front of it."""

    server: Running
    port: int
    folder: Path  # of nginx
    certificate: Path

    def peer(self) -> Peer:
        return Peer(("127.0.0.1", self.port)).secure(ssl.create_default_context(cafile=str(self.certificate)))

    def curl(self, path: str, *arguments: str, address: str = "127.0.7.2") -> str:
        """What curl prints, on behalf of a client with this address; it runs beside `folder`."""
        host = "[::1]" if ":" in address else "127.0.0.1"
        options = ("-sS", "-g", "--cacert", str(self.certificate), "--interface", address)
        return run(needs("curl"), *options, *arguments, f"https://{host}:{self.port}/{path}", at=self.folder.parent)

    def upload(self, *arguments: str, who: str = "") -> str:
        return self.curl("upload", "-w", "%{http_code}", "-H", f"Authorization: {who or token()}", *arguments)


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def site_here(port: int, backend: int, pem: Path) -> str:
    """The site, with ports and certificate of this test."""
    return replaced(
        SITE,
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("listen [::]:443 ssl;", f"listen [::1]:{port} ssl;" if has_ipv6() else ""),
        ("/etc/ssl/certs/files.example.org.pem", str(pem / "cert.pem")),
        ("/etc/ssl/private/files.example.org.key", str(pem / "key.pem")),
        ("server 127.0.0.1:3000;", f"server 127.0.0.1:{backend};"),
    )


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "pem"
    certificate(folder)
    return folder


Edit = tuple[str, str]
Behind = Callable[..., Front]


@pytest.fixture
def behind(start: Start, tmp_path: Path, pem: Path) -> Iterator[Behind]:
    """Starts a server and nginx in front of it: `behind(("old", "new"), limits=LimitOptions(...))` edits the site."""
    with contextlib.ExitStack() as stack:

        def start_one(*edits: Edit, http: str = "", **changes: Any) -> Front:
            server, port, folder = (
                start(**{"trusted_proxies": ("127.0.0.1",), **changes}),
                free_port(),
                tmp_path / "nginx",
            )
            folder.mkdir()
            (folder / "site").write_text(replaced(site_here(port, server.port, pem), *edits))
            warnings = f"error_log {folder}/warnings warn;"
            stack.enter_context(nginx(f"{warnings} {http} include {folder}/site;", port, folder))
            return Front(server, port, folder, pem / "cert.pem")

        yield start_one


def test_the_numbers_of_the_site_suit_those_of_the_server() -> None:
    """UP-7, UP-9, DL-8: it is the server that refuses, and nginx waits for as long as the server may take."""
    told = {name: float(value) for name, value in re.findall(r"^ +(\w+) (\d+)[smg];", SITE, re.MULTILINE)}
    assert told["client_max_body_size"] * (1 << 30) > LIMITS.upload_bytes + (1 << 20)
    assert "client_max_body_size 5g;" in SITE
    assert told["client_body_timeout"] >= LIMITS.body_idle_seconds
    assert told["keepalive_timeout"] < LIMITS.keep_alive_seconds
    assert told["proxy_read_timeout"] > LIMITS.lock_seconds
    assert told["proxy_read_timeout"] > kcistorage.ATTEMPTS * LIMITS.backend_seconds


def test_there_and_back(behind: Behind, tmp_path: Path) -> None:
    """UP-1, UP-7, DL-1, DL-5: 40 MiB with a length and in chunks; whole, a range, the rest; none of it in a file."""
    front = behind()
    (tmp_path / "large").write_bytes(LARGE)
    for coding in ("X: y", "Transfer-Encoding: chunked"):
        assert front.upload("-F", "path=a", "-F", "file0=@large", "-H", coding) == "200"
    assert (front.server.storage / "a" / "large").read_bytes() == LARGE
    front.curl("a/large", "-f", "-o", "whole", "--limit-rate", "60M")
    front.curl("a/large", "-f", "-o", "part", "-r", "1-2000000")
    assert (tmp_path / "whole").read_bytes() == LARGE
    assert (tmp_path / "part").read_bytes() == LARGE[1:2_000_001]
    assert "buffered to a temporary file" not in (front.folder / "warnings").read_text()
    assert front.curl("v1/list") == "a/large\n"
    assert "kcistorage_requests_total" in front.curl("metrics")


def test_wget_resumes(behind: Behind, tmp_path: Path) -> None:
    """DL-5"""
    front = behind()
    (front.server.storage / "large").write_bytes(LARGE)
    (tmp_path / "large").write_bytes(LARGE[:-5_000_000])
    options = ("-q", "-c", "--no-proxy", "--tries=1", "--timeout=10", "--ca-certificate", str(front.certificate))
    run(needs("wget"), *options, f"https://127.0.0.1:{front.port}/large", at=tmp_path)
    assert (tmp_path / "large").read_bytes() == LARGE
    assert values(front.server.wait_for_log("status=206"))["bytes"] == "5000000"


def test_validators_are_as_the_server_sent_them(behind: Behind, tmp_path: Path) -> None:
    """DL-2, DL-4: where the rest of nginx's configuration compresses whatever it can."""
    front = behind(http="gzip on; gzip_types *; gzip_proxied any;")
    (front.server.storage / "log.html").write_bytes(b"text " * 10_000)
    head = front.curl("log.html", "-f", "-D", "-", "-o", "whole", "-H", "Accept-Encoding: gzip")
    assert (tmp_path / "whole").read_bytes() == b"text " * 10_000
    assert "Accept-Ranges: bytes" in head
    etag = re.search(r'^ETag: ("\S+")\r$', head, re.MULTILINE)
    assert etag is not None
    assert front.curl("log.html", "-w", "%{http_code}", "-H", f"If-None-Match: {etag[1]}") == "304"


def test_an_archive(behind: Behind, tmp_path: Path) -> None:
    """AR-1"""
    front = behind()
    run(needs("tar"), "czf", "x.tgz", "-C", str(DEPLOY), ".", at=tmp_path)
    fields = ("-F", "path=a", "-F", "archive=@x.tgz")
    report = json.loads(front.curl("v1/archive", "-f", "-H", f"Authorization: {token()}", *fields))
    assert (report["status"], report["uploaded"]) == ("ok", len(list(DEPLOY.iterdir())))


# ---- Refusals


def upload_head(length: int, *fields: str) -> str:
    return (
        "\r\n".join(["POST /upload HTTP/1.1", "Host: x", FORM_TYPE, f"Content-Length: {length}", *fields]) + "\r\n\r\n"
    )


def test_a_body_goes_through_as_it_comes(behind: Behind) -> None:
    """UP-7: and not when all of it has come."""
    front = behind()
    body = form(("path", None, "a"), ("file0", "x", LARGE))
    uploads = front.server.storage / ".metadata" / "uploads"
    with front.peer() as peer:
        peer.send(upload_head(len(body), f"Authorization: {token()}")).send(body[: len(body) // 2])
        until(lambda: sum(path.stat().st_size for path in uploads.iterdir()) > len(body) // 3, 10)
        assert peer.send(body[len(body) // 2 :]).reply().status == 200


def test_nobody_has_to_send_what_is_refused(behind: Behind) -> None:
    """AU-5, UP-7, UP-11: the answer is there before the body; of a form, once it has said where to."""
    users = (kcistorage.User("lab@example.org", ("lab/",)),)
    front = behind(users=users, limits=kcistorage.LimitOptions(upload_bytes=50 << 20))
    elsewhere = form(("path", None, "b"), ("file0", "x", b"x" * 70_000))[:1000]
    good = f"Authorization: {token()}"
    for head, sent, status in [
        (upload_head(len(LARGE)), b"", 401),
        (upload_head(len(LARGE), good), elsewhere, 403),
        (upload_head(60 << 20, good), b"", 413),
    ]:
        with front.peer() as peer:
            assert peer.send(head).send(sent).reply().status == status
    assert values(front.server.wait_for_log("status=413"))["reason"] == "body-too-large", "kcistorage said so"


def test_a_refusal_reaches_who_is_sending(behind: Behind, tmp_path: Path) -> None:
    """UP-11: curl reads it, although 40 MiB are on their way."""
    front = behind()
    (tmp_path / "large").write_bytes(LARGE)
    assert front.upload("-H", "Expect:", "-F", "path=a", "-F", "file0=@large", who="wrong") == "Unauthorized401"


def test_a_locked_key(behind: Behind, tmp_path: Path) -> None:
    """UP-4, UP-9, DL-6: 409 and 408 pass through."""
    front = behind(limits=kcistorage.LimitOptions(lock_seconds=0.3))
    (tmp_path / "x").write_bytes(b"second")
    fields = ("-F", "path=a", "-F", "file0=@x")
    with HalfUpload(front.server, "a", "x", b"first" * 100) as half:
        assert front.upload(*fields) == "Timeout waiting for upload409"
        assert half.finish().status == 200
    with HalfUpload(front.server, "a", "x", b"first" * 100) as half:
        assert front.curl("a/x", "-w", "%{http_code}") == "Timeout waiting for upload408"
        assert half.finish().status == 200
    assert front.upload("-F", "path=a/x", "-F", "file0=@x").endswith("409")
    assert front.upload(*fields) == "200"


# ---- Who is asking: GA-3

MADE_UP = "198.51.100.9"


@pytest.mark.parametrize(
    ("address", "field", "client"),
    [
        pytest.param("127.0.7.2", "X: y", "127.0.7.2", id="plain"),
        pytest.param("127.0.7.2", f"X-Forwarded-For: {MADE_UP}", "127.0.7.2", id="made-up"),
        pytest.param("127.0.7.2", f"X-Forwarded-For: {MADE_UP}, 127.0.0.1", "127.0.7.2", id="made-up-by-a-proxy"),
        pytest.param("127.0.7.2", f"Forwarded: for={MADE_UP}", "127.0.7.2", id="made-up-forwarded"),
        pytest.param("127.0.0.1", f"X-Forwarded-For: {MADE_UP}, 203.0.113.7", "203.0.113.7", id="another-proxy"),
        pytest.param("127.0.0.1", f"Forwarded: for={MADE_UP}", "127.0.0.1", id="no-forwarded"),
    ],
)
def test_who_is_asking(behind: Behind, address: str, field: str, client: str) -> None:
    """GA-3: the right-most address that is no trusted proxy's, whatever the client wrote."""
    front = behind()
    front.curl("seen", "-H", field, address=address)
    assert values(front.server.wait_for_log("/seen"))["ip"] == client


def test_who_is_asking_by_ipv6(behind: Behind) -> None:
    """GA-3"""
    if not has_ipv6():
        pytest.skip("there is no IPv6 here")
    front = behind()
    front.curl("seen", "-H", f"X-Forwarded-For: {MADE_UP}", "-k", address="::1")  # -k: of a certificate for 127.0.0.1
    assert values(front.server.wait_for_log("/seen"))["ip"] == "::1"


def test_a_proxy_that_nobody_trusts(behind: Behind) -> None:
    """GA-3: is the client."""
    front = behind(trusted_proxies=("192.0.2.1",))
    front.curl("seen", "-H", f"X-Forwarded-For: {MADE_UP}", "-H", f"Forwarded: for={MADE_UP}")
    assert values(front.server.wait_for_log("/seen"))["ip"] == "127.0.0.1"


FORWARDED = (
    ("X-Forwarded-For $proxy_add_x_forwarded_for;", 'X-Forwarded-For "";'),
    ('Forwarded "";', 'Forwarded "$http_forwarded, for=$remote_addr;proto=https";'),
)


def test_a_proxy_that_says_forwarded(behind: Behind) -> None:
    """GA-3: RFC 7239, in place of X-Forwarded-For."""
    front = behind(*FORWARDED)
    front.curl("seen", "-H", f"Forwarded: for={MADE_UP}", "-H", f"X-Forwarded-For: {MADE_UP}")
    assert values(front.server.wait_for_log("/seen"))["ip"] == "127.0.7.2"


@pytest.mark.parametrize("edits", [(), FORWARDED], ids=["x-forwarded-for", "forwarded"])
def test_a_ban_applies_to_who_is_asking(behind: Behind, edits: tuple[Edit, ...]) -> None:
    """GA-2, GA-3: not to nginx, nor to whom the client says it is."""
    front = behind(*edits, block_subnets=("127.0.7.0/24", "198.51.100.0/24"))
    lie = ("-H", "X-Forwarded-For: 203.0.113.7", "-H", "Forwarded: for=203.0.113.7")
    assert front.curl("", "-w", "%{http_code}", *lie) == "Forbidden403"
    assert values(front.server.wait_for_log("event=subnet_ban"))["ip"] == "127.0.7.2"
    accused = ("-H", f"X-Forwarded-For: {MADE_UP}", "-H", f"Forwarded: for={MADE_UP}")
    assert front.curl("", "-w", "%{http_code}", *accused, address="127.0.8.2") == f"{kcistorage.BANNER}200"


def challenge(**changes: Any) -> kcistorage.DownloadChallenge:
    return kcistorage.DownloadChallenge(user_agents=("Mozilla/",), secret=SECRET, **changes)


def test_a_cookie_is_for_the_network_of_who_asked(behind: Behind, tmp_path: Path) -> None:
    """GA-4, GA-3: nginx's own address would be in everybody's."""
    front = behind(download_challenge=challenge())
    (front.server.storage / "x").write_bytes(b"content")
    browser = ("-A", "Mozilla/5.0", "-b", "jar", "-c", "jar")
    lie = ("-H", "X-Forwarded-For: 127.0.8.2")
    assert front.curl("v1/download-challenge", "-w", "%{http_code}", "-X", "POST", *browser, *lie) == "204"
    assert front.curl("x", *browser, address="127.0.7.9") == "content"
    assert "<html" in front.curl("x", *browser, address="127.0.8.2")
    assert "<html" in front.curl("x", *browser, "-H", "X-Forwarded-For: 127.0.7.2", address="127.0.8.2")
    assert front.curl("x", address="127.0.8.2") == "content", "curl itself is not challenged"


UNBUFFERED = ("proxy_max_temp_file_size 0;", "proxy_buffering off;")  # nginx knows no rate then, if it is not told to


@pytest.mark.parametrize("edits", [(), (UNBUFFERED,)], ids=["buffered", "unbuffered"])
def test_the_fallback_is_slow(behind: Behind, tmp_path: Path, edits: tuple[Edit, ...]) -> None:
    """GA-4: nginx does as X-Accel-Limit-Rate says, and tells nobody."""
    front = behind(*edits, download_challenge=challenge(fallback_bytes_per_second=100_000))
    (front.server.storage / "x").write_bytes(bytes(200_000))
    arguments = ("-A", "Mozilla/5.0", "-D", "head", "-o", "x", "-w", "%{time_total} %{size_download}")
    seconds, size = front.curl("x?challenge_fallback=1", *arguments).split()
    assert size == "200000"
    assert float(seconds) > 1
    assert "x-accel" not in (tmp_path / "head").read_text().lower()


# ---- Connections to servers


def test_connections_to_the_server_are_kept(behind: Behind) -> None:
    """DL-8"""
    front = behind()
    for _ in range(5):
        assert front.curl("") == kcistorage.BANNER
    assert front.server.server.connections == 1


@pytest.mark.parametrize("alive", [2, 1])
def test_several_servers(alive: int, start: Start, tmp_path: Path, pem: Path) -> None:
    """UP-1, DL-8: as README has it. Both servers of one storage are asked, and where one is away the other."""
    servers = [start(local=kcistorage.Local(str(tmp_path / "storage"))) for _ in range(alive)]
    ports = [*(server.port for server in servers), free_port()][:2]
    (upstream,) = blocks("nginx")
    for address, port in zip(re.findall(r"192\.0\.2\.\d+:3000", upstream), ports):
        upstream = upstream.replace(address, f"127.0.0.1:{port}")
    at, folder = free_port(), tmp_path / "nginx"
    folder.mkdir()
    with nginx(site_here(at, 1, pem).replace("    server 127.0.0.1:1;\n", upstream), at, folder):
        front = Front(servers[0], at, folder, pem / "cert.pem")
        for content in ("one", "two", "three", "four"):
            (tmp_path / "file").write_text(content)
            assert front.upload("-F", "path=a", "-F", "file0=@file") == "200"
            for _ in range(2):
                assert front.curl("a/file", "-f") == content
    for server in servers:
        assert server.wait_for_log("method=GET"), "this one had no part in it"


# ---- systemd


def unit() -> dict[str, list[str]]:
    """The settings of the unit's service; a key may come several times."""
    text = (DEPLOY / "kcistorage.service").read_text()
    found: dict[str, list[str]] = {}
    for line in text[text.index("[Service]") : text.index("[Install]")].splitlines()[1:]:
        if line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            found.setdefault(key, []).append(value)
    return found


LOCKED_IN = """
    ProtectSystem=strict ProtectHome=true PrivateTmp=true PrivateDevices=true NoNewPrivileges=true
    ProtectKernelTunables=true ProtectKernelModules=true ProtectKernelLogs=true ProtectControlGroups=true
    CapabilityBoundingSet= MemoryDenyWriteExecute=true RestrictNamespaces=true RestrictSUIDSGID=true
    LockPersonality=true SystemCallArchitectures=native SystemCallFilter=@system-service
"""


def test_the_unit() -> None:
    """CF-1, CF-3: options that exist, time enough to stop in, files for all connections, and locked in."""
    settings = unit()
    for setting in LOCKED_IN.split():
        key, _, value = setting.partition("=")
        assert value in settings[key], setting
    assert set(re.findall(r"--[a-z-]+", settings["ExecStart"][0])) <= options()
    assert int(settings["TimeoutStopSec"][0]) > 30
    assert int(settings["LimitNOFILE"][0]) > 10 * LIMITS.connections
    assert settings["RestartPreventExitStatus"] == ["2"]


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    systemd = checker("systemd-analyze")
    copy = tmp_path / "kcistorage.service"
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", (DEPLOY / copy.name).read_text()))
    assert run(systemd, "verify", str(copy), at=tmp_path) == ""
    told = run(systemd, "security", "--offline=true", "--threshold=20", "--no-pager", str(copy), at=tmp_path)
    assert "Overall exposure level" in told


class Deployed:
    """The server as the unit starts it, in a folder that stands for `/`; its log is appended to a file."""

    def __init__(self, root: Path) -> None:
        settings = unit()
        python, script, *arguments = shlex.split(settings["ExecStart"][0])
        assert (python, script) == ("/opt/kcistorage/.venv/bin/python", "/opt/kcistorage/kcistorage.py")
        self.log = root / settings["StandardOutput"][0].replace("append:/", "")
        state = root / settings["WorkingDirectory"][0].lstrip("/")
        for folder in (self.log.parent, state, root / "etc" / "kcistorage"):
            folder.mkdir(parents=True)
        (root / "etc/kcistorage/config.toml").write_text(MINIMAL)
        told = dict(pair.split("=") for pair in settings["Environment"][0].split())
        assert told == {"KCI_STORAGE_HOST": "127.0.0.1", "KCI_STORAGE_PORT": "3000"}
        command = [
            sys.executable,
            str(TOP / "kcistorage.py"),
            *(word.replace("/etc", f"{root}/etc") for word in arguments),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=state, env=environment(**{**told, "KCI_STORAGE_PORT": "0"}), stdout=log
            )
        self.port = int(values(self.wait_for_log("event=start"))["url"].rpartition(":")[2])

    def wait_for_log(self, text: str) -> str:
        until(lambda: text in self.log.read_text() or self.process.poll() is not None, 15)
        return next(line for line in self.log.read_text().splitlines() if text in line)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    server = Deployed(tmp_path / "root")
    try:
        yield server
    finally:
        assert server.end() == 0


def test_the_server_as_the_unit_starts_it(deployed: Deployed, tmp_path: Path) -> None:
    """CF-1: it writes nowhere but into its own folder."""
    before = sorted(tmp_path.rglob("*"))
    with Peer(("127.0.0.1", deployed.port)) as peer:
        assert peer.upload(token(), "a", "x", b"content").status == 200
    new = {path for path in tmp_path.rglob("*") if path not in before}
    state = tmp_path / "root" / "var" / "lib" / "kcistorage"
    assert state / "storage" / "a" / "x" in new
    assert [path for path in new if state not in path.parents] == []


# ---- logrotate


def rotation(log: Path) -> str:
    return replaced((DEPLOY / "kcistorage.logrotate").read_text(), ("/var/log/kcistorage.log {", f"{log} {{"))


def test_logrotate_reads_its_file(tmp_path: Path) -> None:
    (tmp_path / "rotation").write_text(rotation(tmp_path / "log"))
    told = run(checker("logrotate"), "-d", "-s", str(tmp_path / "state"), "rotation", at=tmp_path)
    assert "error" not in told
    assert "Handling 1 logs" in told


def test_the_log_goes_on_where_it_was_cut(deployed: Deployed, tmp_path: Path) -> None:
    """LG-1: what was there is in the older file, what comes next at the beginning of the new one."""
    (tmp_path / "rotation").write_text(rotation(deployed.log))
    with Peer(("127.0.0.1", deployed.port)) as peer:
        peer.get("/before")
        deployed.wait_for_log("/before")
        run(checker("logrotate"), "-f", "-s", str(tmp_path / "state"), "rotation", at=tmp_path)
        peer.get("/after")
        deployed.wait_for_log("/after")
    (older,) = deployed.log.parent.glob("kcistorage.log-*")
    assert "/before" in older.read_text()
    (line,) = deployed.log.read_text().splitlines()
    assert values(line)["target"] == "/after"


# ---- README's installation

STUB = '#!/bin/sh\necho "${0##*/} $*" >>"$CALLS"\n'


def test_the_installation_of_readme(tmp_path: Path) -> None:
    """CF-3: with a folder that stands for `/`, and without what would change this host."""
    root, stubs = tmp_path / "root", tmp_path / "stubs"
    for folder in ("etc/logrotate.d", "etc/systemd/system", "etc/nginx/sites-enabled", "var/log", "opt"):
        (root / folder).mkdir(parents=True)
    for name in ("deploy", "kcistorage_parts"):
        shutil.copytree(TOP / name, root / "opt/kcistorage" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOP / "kcistorage.py", root / "opt/kcistorage")
    stubs.mkdir()
    for name in ("useradd", "chgrp", "systemctl", "nginx", "python3", "pip"):
        (stubs / name).write_text(STUB)
        (stubs / name).chmod(0o755)
    install = next(block for block in blocks("bash") if "useradd" in block)
    install = re.sub(r"(?<![\w.])/(etc|opt|var/log)/", rf"{root}/\1/", install)
    install = replaced(
        install, (".venv/bin/pip", "pip"), (".venv/bin/python", sys.executable), ("-g adm ", ""), ("/var/lib", "/x")
    )
    calls = tmp_path / "calls"
    shell(f'PATH="{stubs}:$PATH"; export CALLS="{calls}"\n{install}', tmp_path, 0)
    made = root / "etc/kcistorage/config.toml"
    assert kcistorage.load_config(str(made)).driver == "local"
    assert made.stat().st_mode & 0o777 == 0o640
    for name, place in (("service", "systemd/system/kcistorage.service"), ("logrotate", "logrotate.d/kcistorage")):
        assert (root / "etc" / place).read_text() == (DEPLOY / f"kcistorage.{name}").read_text()
    assert "server_name YOUR.NAME;" in (root / "etc/nginx/sites-enabled/kcistorage").read_text()
    assert "example" not in (root / "etc/nginx/sites-enabled/kcistorage").read_text()
    assert (root / "var/log/kcistorage.log").stat().st_mode & 0o777 == 0o640
    assert "systemctl enable --now kcistorage" in calls.read_text()


def test_the_paths_of_readme_and_of_the_files_agree() -> None:
    """README makes what the unit and logrotate expect."""
    install = next(block for block in blocks("bash") if "useradd" in block)
    settings = unit()
    log = settings["StandardOutput"][0].replace("append:", "")
    assert f"/dev/null {log}\n" in install
    assert f"\n{log} {{\n" in (DEPLOY / "kcistorage.logrotate").read_text()
    assert f"useradd --system --user-group --home-dir {settings['WorkingDirectory'][0]} " in install
    assert install.rstrip().count(settings["ExecStart"][0].rpartition(" ")[2]) == 3
    for command in blocks("bash"):
        assert settings["User"][0] in command


def test_the_lifecycle_rule_of_readme() -> None:
    """UP-12: is JSON, goes by our tag, and clears parts away."""
    (command,) = [block for block in blocks("console") if "put-bucket-lifecycle" in block]
    found = re.search(r"--lifecycle-configuration '([^']+)'", command)
    assert found is not None
    tagged, parts = json.loads(found[1])["Rules"]
    assert tagged["Filter"]["Tag"]["Key"] == kcistorage.Retention().tag_key
    assert parts["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}


# ---- Prometheus and Grafana


def exposed() -> dict[str, set[str]]:
    """The samples of /metrics, after all has happened once, and their labels; Prometheus gives two to each."""
    metrics = Metrics({"disk": "/"}, "0", lambda: 0, lambda: 0)
    metrics.answered("GET", 200, "reason", 1, 1, 1.0, "cached")
    metrics.lock_waited(1.0)
    metrics.backend("read", 1.0)
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    for name, labels in re.findall(r"^([a-z_]+)(?:\{(.*)\})? ", metrics.text().decode(), re.MULTILINE):
        found.setdefault(name, {"job", "instance"}).update(re.findall(r'(\w+)="', labels))
    return found


KEYWORDS = {
    *("sum", "rate", "increase", "changes", "histogram_quantile", "predict_linear", "label_values"),
    *("by", "and", "or", "unless", "offset"),
    *("instance", "le", "method", "operation", "reason", "status"),  # to group by
}
LABEL = re.compile(r"(\w+)(?:=~|!~|!=|=)")


def unknown(expression: str, known: dict[str, set[str]]) -> list[str]:
    """The metrics and labels of a PromQL expression that no scrape of ours has."""
    selectors = re.findall(r"\b([a-z_]+)\{([^}]*)\}", expression)
    wrong = [
        f"{name}{{{label}}}"
        for name, text in selectors
        for label in LABEL.findall(text)
        if name in known and label not in known[name]
    ]
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\$\w+|\b\d\w*", " ", expression)
    return wrong + [word for word in re.findall(r"[a-z_]+", bare) if word not in known and word not in KEYWORDS]


def alert_expressions() -> list[str]:
    text = (DEPLOY / "alerts.yml").read_text()
    found = re.findall(r"^        expr: (?:>-\n((?:          .*\n)+)|(.*)\n)", text, re.MULTILINE)
    assert len(found) == text.count("- alert: ") >= 8
    return [" ".join((folded or plain).split()) for folded, plain in found]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text())
    return found


def dashboard_expressions() -> list[str]:
    board = dashboard()
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    variables = [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    return [*panels, *variables, *(each["expr"] for each in board["annotations"]["list"])]


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("rate(kcistorage_request_total[5m])", "kcistorage_request_total"),
        ('kcistorage_errors_total{cause="x"} > 0', "kcistorage_errors_total{cause}"),
        ("kcistorage_request_seconds_total", "kcistorage_request_seconds_total"),
        ("node_load1 > 3", "node_load"),
    ],
)
def test_an_unknown_metric_is_noticed(expression: str, wrong: str) -> None:
    """This test's own test."""
    assert unknown(expression, exposed()) == [wrong]


@pytest.mark.parametrize("expression", [*alert_expressions(), *dashboard_expressions()])
def test_alerts_and_dashboard_ask_for_what_there_is(expression: str) -> None:
    """MT-1"""
    assert unknown(expression, exposed()) == []


def test_alerts_know_the_reasons() -> None:
    """MT-1: and README explains them."""
    told = re.findall(r'reason=~?"([^"]+)"', (DEPLOY / "alerts.yml").read_text())
    words = {word for choice in told for word in choice.split("|")}
    assert len(words) > 5
    assert words <= {reason.word for reason in reasons()} - {"connection-failed", "housekeeping-failed"}


def test_the_panels_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    tiles = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(tiles)) == len(tiles)
    assert max(x for x, _ in tiles) < 24, "so wide is a dashboard"


FIRST_OF_ITS_KIND = """
rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'kcistorage_errors_total{reason="no-space", instance="a"}'
        values: '_x10 1x30'
    alert_rule_test:
      - {eval_time: 9m, alertname: KcistorageNoSpace, exp_alerts: []}
      - eval_time: 12m
        alertname: KcistorageNoSpace
        exp_alerts:
          - exp_labels: {severity: critical, reason: no-space, instance: a}
            exp_annotations:
              summary: a refuses uploads for want of space
              description: Disk or quota is full.
      - {eval_time: 35m, alertname: KcistorageNoSpace, exp_alerts: []}
"""


def test_prometheus_reads_the_alerts(tmp_path: Path) -> None:
    """MT-1: a counter that was not there before and is 1 now is news."""
    promtool = checker("promtool")
    shutil.copy(DEPLOY / "alerts.yml", tmp_path)
    (tmp_path / "test.yml").write_text(FIRST_OF_ITS_KIND)
    assert "SUCCESS" in run(promtool, "check", "rules", "alerts.yml", at=tmp_path)
    assert "SUCCESS" in run(promtool, "test", "rules", "test.yml", at=tmp_path)
