"""The command line, the environment and the configuration file: CF-1, CF-2, CF-3, AU-2, AU-3.

What stops a start is asked of `main` in this process; what starts runs in a process of its own, as operators run it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import re
import shlex
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, NamedTuple

import pytest

import kcistorage
from kcistorage_parts import names, tokens
from kcistorage_parts.local import LocalDriver
from kcistorage_test.conftest import EMAIL, SECRET, token
from kcistorage_test.parts_at_hand import needs
from kcistorage_test.talk import FORM_TYPE, Peer, form
from kcistorage_test.test_clients import free_port
from kcistorage_test.test_handlers import sidecar_name, until, values
from kcistorage_test.test_local import bound_by_permissions
from kcistorage_test.test_retention import keep

SCRIPT = Path(kcistorage.__file__).resolve()
MINIMAL = f'driver = "local"\njwt_secret = "{SECRET}"\n'
AZURE = f'driver = "azure"\njwt_secret = "{SECRET}"\n[azure]\naccount = "x"\ncontainer = "x"\n'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, and an environment that has a server listen on any free port of loopback."""
    for name in ("KCI_STORAGE_CONFIG", "STORAGE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KCI_STORAGE_HOST", "127.0.0.1")
    monkeypatch.setenv("KCI_STORAGE_PORT", "0")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


class Ended(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command line in this process; it must not come as far as to serve."""

    def serve_forever(server: kcistorage.StorageServer) -> None:
        server.server_close()
        pytest.fail("the start was not refused")

    monkeypatch.setattr(kcistorage.StorageServer, "serve_forever", serve_forever)

    def run(*arguments: str) -> Ended:
        code = kcistorage.main(arguments)
        return Ended(code, *capfd.readouterr())

    return run


def refused(ended: Ended) -> str:
    """The message of a start that was refused: one line, exit code 2, and nothing else."""
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("kcistorage: ")
    return line[len("kcistorage: ") :]


def configure(text: str, path: str = "config.toml") -> None:
    Path(path).write_text(text, encoding="utf-8")


# ---- What is printed


def test_help_names_every_option(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    """CF-1: with its default and its variable."""
    with pytest.raises(SystemExit) as ended:
        command("--help")
    assert ended.value.code == 0
    text = capfd.readouterr().out
    for option in (
        "--config-file", "--files-directory", "--ssl-directory", "--init", "--generate-jwt-secret",
        "--generate-jwt-token", "--expires-in", "--retention-dry-run", "--scrub", "--verbose", "--version",
    ):  # fmt: skip
        assert option in text
    for word in ("./config.toml", "./ssl", "KCI_STORAGE_CONFIG", "STORAGE_DEBUG"):
        assert word in text


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        kcistorage.main(["--version"])
    assert ended.value.code == 0
    assert capfd.readouterr().out == f"kcistorage {kcistorage.__version__}\n"


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["stray"], ["--expires-in", "soon"], ["--config-file"]])
def test_a_command_line_that_is_none(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """CF-1: exit code 2, and the wrong word is named."""
    with pytest.raises(SystemExit) as ended:
        kcistorage.main(arguments)
    assert ended.value.code == 2
    assert arguments[-1] in capfd.readouterr().err


def test_a_secret(command: Command) -> None:
    """CF-1: needs no configuration; another one each time, and as much as HS256 can use."""
    secrets = [command("--generate-jwt-secret") for _ in range(2)]
    assert [ended.code for ended in secrets] == [0, 0]
    assert len({ended.out for ended in secrets}) == 2
    for ended in secrets:
        assert re.fullmatch(r"\S{32,}\n", ended.out)


def claims(printed: str) -> dict[str, object]:
    """What a token says; it must be a good one."""
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(printed.split(".")[1] + "=="))
    assert tokens.verify(printed.strip(), [SECRET], time.time()) == found["email"]
    return found


def test_a_token(command: Command) -> None:
    """AU-3: just the e-mail, signed with jwt_secret."""
    configure(MINIMAL)
    ended = command("--generate-jwt-token", EMAIL)
    assert ended.code == 0
    assert claims(ended.out) == {"email": EMAIL}


def test_a_token_by_the_other_secret(command: Command) -> None:
    """AU-2: where there is no jwt_secret."""
    configure(f'driver = "local"\nunified_secret = "{SECRET}"\n')
    assert claims(command("--generate-jwt-token", EMAIL).out) == {"email": EMAIL}


@pytest.mark.parametrize("days", ["7", "0.5"])
def test_a_token_that_ends(command: Command, days: str) -> None:
    """AU-3"""
    configure(MINIMAL)
    before = time.time()
    found = claims(command("--generate-jwt-token", EMAIL, "--expires-in", days).out)
    assert found.keys() == {"email", "exp"}
    assert isinstance(found["exp"], int)
    assert 0 <= found["exp"] - before - float(days) * 86_400 <= 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--generate-jwt-token", ""],
        ["--generate-jwt-token", "  "],
        ["--generate-jwt-token", "a\nb"],
        ["--generate-jwt-token", EMAIL, "--expires-in", "0"],
        ["--generate-jwt-token", EMAIL, "--expires-in", "-1"],
        ["--generate-jwt-token", EMAIL, "--expires-in", "nan"],
        ["--generate-jwt-token", EMAIL, "--expires-in", "1e300"],
    ],
)
def test_a_token_that_would_be_refused(command: Command, arguments: list[str]) -> None:
    """AU-3: is not printed."""
    configure(MINIMAL)
    assert "--generate-jwt-token" in refused(command(*arguments))


# ---- The configuration file


def test_no_configuration(command: Command) -> None:
    """CF-3: names the file and the command that writes one."""
    message = refused(command())
    assert "./config.toml" in message
    assert "--init" in message


def test_the_configuration_of_an_option(command: Command) -> None:
    """CF-1"""
    assert "elsewhere.toml" in refused(command("--config-file", "elsewhere.toml"))


def test_the_configuration_of_the_environment(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """CF-1: it wins over the option; an empty one is none."""
    configure(MINIMAL)
    configure("", "empty.toml")
    monkeypatch.setenv("KCI_STORAGE_CONFIG", "empty.toml")
    assert "empty.toml" in refused(command("--config-file", "config.toml", "--generate-jwt-token", EMAIL))
    monkeypatch.setenv("KCI_STORAGE_CONFIG", "")
    assert command("--generate-jwt-token", EMAIL).code == 0


WRONG = [
    # text of the file, what the message names
    pytest.param("driver = ", ["config.toml"], id="no-toml"),
    pytest.param("driver = 'local'\ndriver = 'local'\n", ["config.toml"], id="twice"),
    pytest.param('jwt_secret = "x"\n', ["azure.account", '""', "local"], id="the-default-driver"),
    pytest.param('driver = "s3"\njwt_secret = "x"\n', ["s3.bucket", '""', "local"], id="no-bucket"),
    pytest.param('driver = "disk"\njwt_secret = "x"\n', ["driver", '"disk"', '"local"'], id="no-driver"),
    pytest.param('driver = "local"\n', ["jwt_secret", '""', "--generate-jwt-secret"], id="no-secret"),
    pytest.param('driver = "local"\njwt_secret = ""\n', ["jwt_secret", '""'], id="empty-secret"),
    pytest.param(MINIMAL + 'dirver = "x"\n', ["dirver", "driver"], id="unknown-key"),
    pytest.param(MINIMAL + "zzz = 1\n", ["zzz", "jwt_secret"], id="unknown-key-like-none"),
    pytest.param(MINIMAL + '[locale]\nstorage_path = "x"\n', ["locale", "local"], id="unknown-table"),
    pytest.param(
        MINIMAL + '[local]\nstoragepath = "x"\n', ["local.storagepath", "storage_path"], id="unknown-in-table"
    ),
    pytest.param(MINIMAL + "[local]\nstorage_path = 3\n", ["local.storage_path", "3", "a string"], id="no-string"),
    pytest.param(MINIMAL + 'local = "x"\n', ["local", '"x"', "table"], id="no-table"),
    pytest.param(MINIMAL + '[list]\nenabled = "no"\n', ["list.enabled", '"no"', "true or false"], id="no-bool"),
    pytest.param(MINIMAL + "[auth]\nenforce_expiry = 0\n", ["auth.enforce_expiry", "0"], id="a-number-for-bool"),
    pytest.param(MINIMAL + '[limits]\nconnections = "9"\n', ["limits.connections", '"9"', "number"], id="no-number"),
    pytest.param(MINIMAL + "[limits]\nconnections = 1.5\n", ["limits.connections", "1.5", "whole"], id="no-integer"),
    pytest.param(MINIMAL + "[limits]\nconnections = true\n", ["limits.connections", "true"], id="bool-for-number"),
    pytest.param(MINIMAL + "[limits]\nconnections = 0\n", ["limits.connections", "0", "above 0"], id="zero"),
    pytest.param(MINIMAL + "[limits]\nupload_bytes = -1\n", ["limits.upload_bytes", "-1"], id="negative"),
    pytest.param(MINIMAL + "[limits]\nlock_seconds = nan\n", ["limits.lock_seconds", "number"], id="nan"),
    pytest.param(MINIMAL + "[limits]\nhead_seconds = inf\n", ["limits.head_seconds"], id="inf"),
    pytest.param(MINIMAL + "[cache]\ncleanup_chunk_size = 0\n", ["cache.cleanup_chunk_size", "0"], id="zero-chunk"),
    pytest.param(MINIMAL + "[cache]\nrevalidate_seconds = -1\n", ["cache.revalidate_seconds", "-1"], id="negative-age"),
    pytest.param(MINIMAL + 'block_subnets = "10.0.0.0/8"\n', ["block_subnets", "list"], id="no-list"),
    pytest.param(MINIMAL + "block_subnets = [1]\n", ["block_subnets[0]", "1", "string"], id="wrong-in-list"),
    pytest.param(MINIMAL + 'block_subnets = ["10.0.0.0/33"]\n', ["block_subnets", "10.0.0.0/33"], id="no-cidr"),
    pytest.param(
        MINIMAL + 'block_subnets = ["10.0.0.1/8"]\n', ["block_subnets", "10.0.0.1/8", "10.0.0.0/8"], id="host"
    ),
    pytest.param(MINIMAL + 'block_subnets = ["lab"]\n', ["block_subnets", "lab"], id="a-name"),
    pytest.param(MINIMAL + 'trusted_proxies = ["::g"]\n', ["trusted_proxies", "::g"], id="no-proxy"),
    pytest.param(MINIMAL + '[[users]]\nprefixes = [""]\n', ["users[0].name", "missing"], id="user-without-name"),
    pytest.param(MINIMAL + '[[users]]\nname = "a"\nprefixes = "b"\n', ["users[0].prefixes", "list"], id="one-prefix"),
    pytest.param(MINIMAL + '[users]\nname = "a"\n', ["users", "list"], id="users-once"),
    pytest.param(MINIMAL + '[[users]]\nname = "a"\nprefix = ["b"]\n', ["users[0].prefix", "prefixes"], id="prefix"),
    pytest.param(MINIMAL + '[useragent]\nban = [""]\n', ["useragent.ban", '[""]'], id="ban-all"),
    pytest.param(MINIMAL + '[useragent]\nban = [" "]\n', ["useragent.ban"], id="ban-space"),
    pytest.param(MINIMAL + '[retention]\ntag_key = "a:b"\n', ["retention.tag_key", "a:b"], id="tag-key"),
    pytest.param(MINIMAL + '[retention]\ntag_value = "a\\nb"\n', ["retention.tag_value"], id="tag-value"),
    pytest.param(
        MINIMAL + '[retention]\nexpire = { "6m" = -1 }\n', ['retention.expire."6m"', "-1", "days"], id="expire-negative"
    ),
    pytest.param(MINIMAL + '[retention]\nexpire = { "6m" = 0 }\n', ['retention.expire."6m"', "0"], id="expire-zero"),
    pytest.param(
        MINIMAL + '[retention]\nexpire = { "6m" = "180" }\n', ['retention.expire."6m"', '"180"'], id="expire-text"
    ),
    pytest.param(MINIMAL + "[retention]\nexpire = 180\n", ["retention.expire", "180", "table"], id="expire-number"),
    pytest.param(AZURE + "[retention.expire]\n6m = 180\n", ["retention.expire", '"6m"', '"local"'], id="expire-azure"),
    pytest.param(
        MINIMAL + '[download_challenge]\nuser_agents = ["Mozilla"]\n',
        ["download_challenge.secret", "32 characters", "--generate-jwt-secret"],
        id="challenge",
    ),
    pytest.param(
        MINIMAL + '[local]\nstorage_path = "/proc/x/y"\n', ["local.storage_path", "/proc/x/y"], id="no-folder"
    ),
    pytest.param(MINIMAL + '[local]\nstorage_path = "config.toml"\n', ["local.storage_path"], id="a-file-for-folder"),
    pytest.param(MINIMAL + '[local]\nstorage_path = ""\n', ["local.storage_path", '""'], id="empty-path"),
]


@pytest.mark.parametrize(("text", "named"), WRONG)
def test_a_wrong_configuration(command: Command, text: str, named: list[str]) -> None:
    """CF-2, GA-2, AU-2: one line that names the key, its value and what was expected."""
    configure(text)
    message = refused(command())
    for word in named:
        assert word in message, message


@pytest.mark.parametrize("secret", ["jwt_secret", "unified_secret"])
def test_no_message_shows_a_secret(command: Command, secret: str) -> None:
    """CF-2"""
    configure(f'driver = "local"\n{secret} = ["{SECRET}"]\n')
    message = refused(command())
    assert secret in message
    assert SECRET not in message


def test_a_configuration_that_may_not_be_read(command: Command, here: Path) -> None:
    """CF-2: a folder in its place."""
    (here / "config.toml").mkdir()
    assert "config.toml" in refused(command())


def test_a_configuration_that_is_not_utf8(command: Command, here: Path) -> None:
    """CF-2"""
    (here / "config.toml").write_bytes(b'driver = "\xff"\n')
    assert "config.toml" in refused(command())


# ---- Where to listen, and with what


@pytest.mark.parametrize("port", ["", "http", "-1", "65536", "3000 ", "\N{ARABIC-INDIC DIGIT ZERO}", "1e3"])
def test_a_port_that_is_none(command: Command, monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    """CF-1"""
    configure(MINIMAL)
    monkeypatch.setenv("KCI_STORAGE_PORT", port)
    message = refused(command())
    assert "KCI_STORAGE_PORT" in message
    assert "65535" in message


def test_a_port_in_use(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """CF-1"""
    configure(MINIMAL)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("KCI_STORAGE_HOST", "127.0.0.1")
        monkeypatch.setenv("KCI_STORAGE_PORT", str(taken.getsockname()[1]))
        message = refused(command())
    assert "KCI_STORAGE_PORT" in message
    assert "in use" in message


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "::g"])
def test_an_address_that_is_not_ours(command: Command, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """CF-1"""
    configure(MINIMAL)
    monkeypatch.setenv("KCI_STORAGE_HOST", host)
    monkeypatch.setenv("KCI_STORAGE_PORT", "0")
    message = refused(command())
    assert "KCI_STORAGE_HOST" in message
    assert host in message


@pytest.mark.parametrize("there", ["cert.pem", "key.pem"])
def test_half_of_what_tls_needs(command: Command, here: Path, there: str) -> None:
    """CF-1: a server that was meant to speak HTTPS does not start without."""
    configure(MINIMAL)
    (here / "ssl").mkdir()
    (here / "ssl" / there).touch()
    message = refused(command())
    assert "--ssl-directory" in message
    assert "both cert.pem and key.pem" in message


def test_what_tls_cannot_read(command: Command, here: Path) -> None:
    """CF-1"""
    configure(MINIMAL)
    (here / "tls").mkdir()
    for name in ("cert.pem", "key.pem"):
        (here / "tls" / name).write_text("nonsense")
    message = refused(command("--ssl-directory", "tls"))
    assert "--ssl-directory" in message
    assert '"tls"' in message


# ---- --init


def test_init_writes_what_works(command: Command, here: Path) -> None:
    """CF-3: a local driver, a secret of its own, for the eyes of its owner only."""
    ended = command("--init")
    assert ended.code == 0
    config = kcistorage.load_config("config.toml")
    assert config.driver == "local"
    assert len(config.jwt_secret) >= 32
    assert stat.S_IMODE((here / "config.toml").stat().st_mode) == 0o600
    assert config.jwt_secret not in ended.out
    found = re.search(r'"Authorization: Bearer (\S+)"', ended.out)
    assert found is not None
    assert tokens.verify(found[1], [config.jwt_secret], time.time())


def test_init_again_keeps_the_file(command: Command, here: Path) -> None:
    """CF-3: and prints a token of the secret that is there."""
    command("--init")
    before = (here / "config.toml").read_bytes()
    ended = command("--init")
    assert ended.code == 0
    assert "kept" in ended.out
    assert (here / "config.toml").read_bytes() == before
    assert stat.S_IMODE((here / "config.toml").stat().st_mode) == 0o600


def test_init_of_another_place(command: Command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CF-1, CF-3"""
    assert command("--init", "--config-file", "one.toml").code == 0
    monkeypatch.setenv("KCI_STORAGE_CONFIG", "two.toml")
    assert command("--init", "--config-file", "three.toml").code == 0
    assert sorted(path.name for path in here.iterdir()) == ["one.toml", "two.toml"]


def test_init_where_nothing_can_be_written(command: Command) -> None:
    """CF-3"""
    message = refused(command("--init", "--config-file", "no/such/folder/config.toml"))
    assert "no/such/folder/config.toml" in message


def test_init_names_a_place_the_user_may_write(command: Command) -> None:
    """CF-3, AU-6: of a configuration that limits its users."""
    first, second = '[[users]]\nname = "a@b.org"\n', '[[users]]\nname = "c@d.org"\nprefixes = ["/it\'s/"]\n'
    configure(MINIMAL + first + second)
    ended = command("--init")
    found = re.search(r'"Authorization: Bearer (\S+)"', ended.out)
    assert found is not None
    assert claims(found[1]) == {"email": "c@d.org"}
    assert """-F path='it'"'"'s'""" in ended.out


# ---- Processes


class Started:
    """A server as a process, started in the current folder; its log comes line by line."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        told = {**os.environ, "KCI_STORAGE_HOST": "127.0.0.1", "KCI_STORAGE_PORT": "0", **environment}
        command = [sys.executable, str(SCRIPT), *arguments]
        self.process = subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = values(self.wait_for_log("event=start"))["url"]
        self.port = int(self.url.rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for_log(self, text: str) -> str:
        until(lambda: any(text in line for line in self.lines) or self.process.poll() is not None, 15)
        found = next((line for line in self.lines if text in line), None)
        assert found is not None, f"no {text!r} in " + "\n".join(self.lines)
        return found

    def peer(self) -> Peer:
        return Peer(("127.0.0.1", self.port), 10)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(15)
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextlib.contextmanager
def started(*arguments: str, **environment: str) -> Iterator[Started]:
    server = Started(*arguments, **environment)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(here: Path, number: signal.Signals) -> None:
    """CF-3: exit code 0, and the objects are where the configuration says."""
    configure(MINIMAL)
    with started() as server:
        with server.peer() as peer:
            assert peer.upload(token(), "a", "x", b"content").status == 200
            assert server.end(number) == 0
            assert peer.rest() == b"", "the idle connection was closed in good order"
        assert values(server.wait_for_log("event=stop"))["signal"] == number.name
        assert not any("Traceback" in line for line in server.lines)
    assert (here / "storage" / "a" / "x").read_bytes() == b"content"


class HalfUpload:
    """An upload that a server is at work on; the last bytes of its body are still to come."""

    def __init__(self, server: Started) -> None:
        body = form(("path", None, "a"), ("file0", "x", b"content"))
        cut = body.index(b"content") + 3
        self.rest = body[cut:]
        self.peer = server.peer()
        lines = ["POST /upload HTTP/1.1", "Host: x", f"Authorization: {token()}", FORM_TYPE]
        self.peer.send("\r\n".join([*lines, f"Content-Length: {len(body)}"]).encode() + b"\r\n\r\n" + body[:cut])
        until(lambda: any(Path("storage/.metadata/uploads").iterdir()))


def test_running_requests_end(here: Path) -> None:
    """CF-3: nobody new comes in, but who is in may finish."""
    configure(MINIMAL)
    with started() as server:
        half = HalfUpload(server)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not accepts(server.port))
        assert server.process.poll() is None
        with half.peer as peer:
            reply = peer.send(half.rest).reply()
            assert (reply.status, reply.fields["connection"]) == (200, "close")
        assert server.process.wait(15) == 0
    assert (here / "storage" / "a" / "x").read_bytes() == b"content"


def test_a_second_signal_does_not_wait() -> None:
    """CF-3: for an operator who has no patience left."""
    configure(MINIMAL)
    with started() as server, HalfUpload(server).peer:
        server.process.send_signal(signal.SIGINT)
        until(lambda: not accepts(server.port))
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == -signal.SIGINT


def test_every_option_at_once(here: Path) -> None:
    """CF-1: the listening address, another configuration, another folder for files, a verbose log."""
    configure(MINIMAL + '[local]\nstorage_path = "objects"\n', "other.toml")
    (here / "files").mkdir()
    arguments = ("--config-file", "other.toml", "--files-directory", "files", "--ssl-directory", "none", "--verbose")
    with started(*arguments) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        with server.peer() as peer:
            assert peer.get("/").status == 200
        assert server.end() == 0
    assert (here / "objects").is_dir()
    assert values(server.lines[0])["version"] == kcistorage.__version__


@pytest.mark.parametrize(("arguments", "debug", "told"), [((), "", False), (("--verbose",), "", True), ((), "1", True)])
def test_debug_lines(arguments: tuple[str, ...], debug: str, told: bool) -> None:
    """CF-1: by option or by STORAGE_DEBUG. A client that leaves without a word is worth no other line."""
    configure(MINIMAL)
    with started(*arguments, STORAGE_DEBUG=debug) as server:
        with server.peer() as peer:
            assert peer.get("/").status == 200
            server.wait_for_log("event=access")
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # so: a reset
        if told:
            assert values(server.wait_for_log("event=disconnect"))["ip"] == "127.0.0.1"
        assert server.end() == 0
    events = ["start", "access", *(["disconnect"] if told else []), "stop"]
    assert [values(line)["event"] for line in server.lines] == events


def test_a_short_secret_is_worth_a_warning() -> None:
    """AU-2"""
    for secret, warned in [("s" * 31, True), ("ü" * 16, False)]:
        configure(f'driver = "local"\njwt_secret = "{secret}"\n')
        with started() as server:
            assert server.end() == 0
            assert any("event=warning" in line and "32 bytes" in line for line in server.lines) == warned
            assert secret not in "\n".join(server.lines)


@pytest.mark.parametrize(("storage", "warned"), [(".", True), ("..", True), ("storage", False)])
def test_a_secret_that_anybody_can_download_is_worth_a_warning(storage: str, warned: bool) -> None:
    """CF-2, LG-1: whatever lies in the storage is public, config.toml too."""
    configure(MINIMAL + f'[local]\nstorage_path = "{storage}"\n')
    with started() as server:
        assert server.end() == 0
        assert any("event=warning" in line and "config.toml" in line for line in server.lines) == warned


def certificate(folder: Path) -> None:
    folder.mkdir()
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    make = [needs("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*make, "-days", "2", *names, *files], check=True, capture_output=True, timeout=30)


def test_https(here: Path) -> None:
    """CF-1: when there are a certificate and its key; there and back, and a client that speaks no TLS is no news."""
    configure(MINIMAL)
    certificate(here / "ssl")
    trust = ssl.create_default_context(cafile=str(here / "ssl" / "cert.pem"))
    content = os.urandom(1 << 20)
    with started() as server:
        assert server.url.startswith("https://")
        with server.peer() as plain, contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").rest()
        with server.peer().secure(trust) as peer:
            assert peer.upload(token(), "a", "x", content).status == 200
            assert peer.get("/a/x").body == content
            assert peer.get("/a/x", "Range: bytes=-9").body == content[-9:]
        assert server.end() == 0
        assert not any("Traceback" in line or "event=error" in line for line in server.lines)


def printed_command(out: str) -> tuple[str, str]:
    """The curl line of --init, and the URL it promises."""
    lines = [line.strip() for line in out.splitlines()]
    (curl,) = [line for line in lines if line.startswith("curl ")]
    (url,) = [line for line in lines if line.startswith("http")]
    return curl, url


def shell(line: str) -> bytes:
    return subprocess.run(["sh", "-ec", line], check=True, capture_output=True, timeout=30).stdout


@pytest.mark.parametrize("users", ["", '[[users]]\nname = "a@b.org"\nprefixes = ["/it\'s $HOME/"]\n'])
def test_the_line_of_init_works_when_it_is_pasted(
    command: Command, monkeypatch: pytest.MonkeyPatch, users: str
) -> None:
    """CF-3: into a shell, as it is; the file is found under the URL that was printed."""
    needs("curl")
    port = free_port()
    monkeypatch.setenv("KCI_STORAGE_PORT", str(port))
    monkeypatch.setenv("no_proxy", "*")
    if users:
        configure(MINIMAL + users)
    curl, url = printed_command(command("--init").out)
    with started(KCI_STORAGE_PORT=str(port)):
        shell(curl)
        found = shell(f"curl -sSf {shlex.quote(url)}")
    sample = re.search(r"file0=@(\S+)", curl)
    assert sample is not None
    assert found == Path(sample[1]).read_bytes()


def test_the_script_runs_from_anywhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CF-1: `python kcistorage.py` in a folder with config.toml."""
    assert here != SCRIPT.parent
    monkeypatch.delenv("PYTHONPATH", raising=False)
    configure(MINIMAL)
    with started() as server, server.peer() as peer:
        assert peer.get("/").text == kcistorage.BANNER


def test_a_refused_start_of_a_process() -> None:
    """CF-2: exit code 2, and no traceback."""
    configure(MINIMAL + "zzz = 1\n")
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kcistorage: ./config.toml: unknown key zzz")
    assert len(done.stderr.splitlines()) == 1


# ---- Commands that look after the storage: UP-12


EXPIRE = '[retention]\ntag_value = "6m"\nexpire = { "6m" = 180 }\n'


@pytest.fixture
def stored(here: Path) -> Path:
    """Two objects that are past their time, and one that is not."""
    configure(MINIMAL + EXPIRE)
    driver = LocalDriver("storage")
    keep(driver, "a/old", 1000)
    keep(driver, "b/ü x", 2000)
    with driver.create("c") as incoming:
        incoming.write(b"content")
        incoming.commit("c", "", [("retention", "6m")])
    return here / "storage"


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What there is: names, times, contents."""
    return {str(path): (path.lstat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def process(*arguments: str) -> Ended:
    """The command line as a process."""
    told = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=30, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def test_what_would_be_deleted(stored: Path) -> None:
    """UP-12: days, tag and key, with tabs between them; and nothing is deleted."""
    before = files(stored)
    ended = process("--retention-dry-run")
    assert (ended.code, ended.err) == (0, "2 objects would be deleted\n")
    lines = [line.split("\t") for line in ended.out.splitlines()]
    assert [(json.loads(tag), json.loads(key)) for _, tag, key in lines] == [("6m", "a/old"), ("6m", "b/ü x")]
    assert all(float(days) > 180 for days, _, _ in lines)
    assert files(stored) == before


def test_nothing_would_be_deleted(stored: Path) -> None:
    """UP-12"""
    configure(MINIMAL + '[retention.expire]\n"7m" = 1\n')
    assert process("--retention-dry-run") == Ended(0, "", "0 objects would be deleted\n")


def test_all_is_in_order(stored: Path) -> None:
    """UP-12: exit code 0, and nothing to read for a program; not even the last look at a file changed."""
    before = files(stored)
    assert process("--scrub") == Ended(0, "", "3 objects of 0.0 MB in order, 0 faults\n")
    assert files(stored) == before


def test_something_is_wrong(stored: Path) -> None:
    """UP-12: exit code 1; what, how large, where, with tabs between them."""
    (stored / "c").write_bytes(b"longer content")
    (stored / "a" / "old").unlink()
    (stored / ".metadata" / "uploads" / "left").write_bytes(b"123")
    ended = process("--scrub")
    sidecar = stored / sidecar_name("a/old")
    assert ended.out.splitlines() == [
        "size-differs\t14\tc",
        f"sidecar-without-content\t{sidecar.stat().st_size}\t{sidecar.relative_to(stored)}",
        "leftover\t3\t.metadata/uploads/left",
    ]
    assert (ended.code, ended.err) == (1, "1 object of 0.0 MB in order, 3 faults\n")


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Exit code, and all that a terminal gets to see."""
    ours, theirs = pty.openpty()
    seen = []
    with open(ours, "rb", buffering=0) as terminal:
        ended = subprocess.Popen([sys.executable, str(SCRIPT), *arguments], stdout=theirs, stderr=theirs)
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: nobody else has the terminal open any more
            while data := terminal.read(4096):
                seen.append(data)
        return ended.wait(30), b"".join(seen).decode()


def test_progress_on_a_terminal(stored: Path) -> None:
    """UP-12: in one line, which is gone when there is something to say."""
    (stored / ".metadata" / "uploads" / "left").touch()
    code, seen = on_a_terminal("--scrub")
    progress, *lines = seen.replace("\r\n", "\n").split("\r\x1b[K")[1:]
    assert progress.startswith("1 object, 0.0 MB read: a/old")
    assert lines[-2:] == ["leftover\t0\t.metadata/uploads/left\n", "3 objects of 0.0 MB in order, 1 fault\n"]
    assert code == 1


@pytest.mark.parametrize("option", ["--scrub", "--retention-dry-run"])
def test_commands_for_another_driver(command: Command, option: str) -> None:
    """UP-12: exit code 2. `retention.expire` alone is refused there already."""
    configure(AZURE)
    message = refused(command(option))
    assert ("driver" in message and option in message) or "retention.expire" in message


@pytest.mark.parametrize("option", ["--scrub", "--retention-dry-run"])
def test_commands_for_a_folder_that_is_not_there(command: Command, here: Path, option: str) -> None:
    """UP-12: which a typing error may be: none is made, and nobody is told that all is well."""
    configure(MINIMAL + EXPIRE + '[local]\nstorage_path = "sotrage"\n')
    message = refused(command(option))
    assert "local.storage_path" in message
    assert '"sotrage"' in message
    assert [path.name for path in here.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("option", ["--scrub", "--retention-dry-run"])
def test_commands_for_a_folder_that_cannot_be_read(command: Command, stored: Path, option: str) -> None:
    """UP-12: 2, since 1 would say that an object is damaged."""
    stored.chmod(0o300)
    with bound_by_permissions():
        message = refused(command(option))
    assert "local.storage_path" in message
    assert "Permission denied" in message


def test_a_dry_run_of_nothing(command: Command) -> None:
    """UP-12"""
    configure(MINIMAL)
    assert "retention.expire" in refused(command("--retention-dry-run"))


@pytest.mark.parametrize("option", ["--scrub", "--retention-dry-run"])
def test_nobody_reads_on(stored: Path, option: str) -> None:
    """UP-12: as in `--scrub | head -n 1`: no trace, and not the code of a finding."""
    (stored / ".metadata" / "uploads" / "left").touch()
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(SCRIPT), option]
    with open(writer, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode not in (0, 1, 2)


@pytest.mark.parametrize("option", ["--scrub", "--retention-dry-run"])
def test_an_operator_has_seen_enough(
    command: Command, stored: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """UP-12: Ctrl-C, as any other command has it."""

    def interrupted(*arguments: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalDriver, "_expired", interrupted)
    monkeypatch.setattr(names, "is_key", interrupted)
    assert command(option) == Ended(128 + signal.SIGINT, "", "")


def test_a_server_deletes_what_is_past_its_time(stored: Path) -> None:
    """UP-12: and says so, and nothing else."""
    configure(MINIMAL + EXPIRE + "[cache]\nhousekeeping_seconds = 0.2\n")
    with started() as server:
        server.wait_for_log('path="b/')
        assert server.end() == 0
        told = [values(line) for line in server.lines if "event=expired" in line]
        assert not any("event=error" in line for line in server.lines)
    assert [(line["path"], line["tag"]) for line in told] == [("a/old", "6m"), ("b/ü x", "6m")]
    assert all(int(line["age_days"]) > 180 for line in told)
    assert [path.name for path in stored.iterdir() if path.name != ".metadata"] == ["c"]
