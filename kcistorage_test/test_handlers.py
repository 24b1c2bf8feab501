"""The handlers, clause by clause: ST, GA, AU, UP, DL, LS, MT, LG.

What needs no connection runs at a Desk, where a request goes in and the Answer with its reason comes out. Waiting,
refusing while a body is still on its way, and the log run against a whole server.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from email import message_from_bytes
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

import kcistorage
from kcistorage import LimitOptions
from kcistorage_parts import heads
from kcistorage_parts.logfmt import Log
from kcistorage_parts.metrics import Metrics
from kcistorage_test.conftest import EMAIL, SECRET, Running, Start, token
from kcistorage_test.talk import FORM_TYPE, Content, Field, Peer, Reply, chunked, form, part

# ---- A desk


class Told(NamedTuple):
    """What a handler answered. `reason` is "" where it did what was asked; field names are lower-case."""

    status: int
    reason: str
    fields: dict[str, str]
    body: bytes
    exchange: kcistorage.Exchange

    @property
    def text(self) -> str:
        return self.body.decode()


def bytes_of(body: object) -> bytes:
    if isinstance(body, kcistorage.FileBody):
        pieces = [p if isinstance(p, bytes) else os.pread(body.descriptor, p[1] - p[0], p[0]) for p in body.pieces]
        body.close()
        return b"".join(pieces)
    if isinstance(body, kcistorage.StreamBody):
        return b"".join(body)
    assert isinstance(body, bytes)
    return body


def bearer(email: str = EMAIL) -> str:
    return f"Authorization: Bearer {token(email)}"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Desk:
    """A site over a fresh folder, asked without a server: one request at a time, all of it there at once."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.storage = folder / "storage"
        local = kcistorage.Local(str(self.storage))
        config = dataclasses.replace(
            kcistorage.Config(), **{"driver": "local", "jwt_secret": SECRET, "local": local, **changes}
        )
        self.log_path = folder / "log"
        self.log = Log(os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        self.metrics = Metrics({"storage": str(folder)}, "0", lambda: 0, lambda: 0)
        around = kcistorage.Surroundings(str(folder), self.log, self.metrics, kcistorage.LockTable())
        self.site = kcistorage.build_site(config, kcistorage.open_local(config, around).driver, around)

    def close(self) -> None:
        os.close(self.log.descriptor)

    def ask(self, method: str, target: str, *lines: str, body: bytes = b"", length: Optional[int] = None) -> Told:
        """One request; `length` declares another one than the body has."""
        told = len(body) if length is None else length
        raw = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: desk", f"Content-Length: {told}", *lines])
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(body)  # into the socket's buffer: some 200 kB at the most
            theirs.shutdown(socket.SHUT_WR)
            wire = kcistorage.Wire(ours)
            return self._answer(kcistorage.Exchange(wire, heads.parse_head(raw.encode()), "203.0.113.7"))

    def _answer(self, exchange: kcistorage.Exchange) -> Told:
        answer, reason = self._respond(exchange)
        fields = {name.lower(): value for name, value in answer.headers}
        return Told(answer.status, reason, fields, bytes_of(answer.body), exchange)

    def _respond(self, exchange: kcistorage.Exchange) -> tuple[kcistorage.Answer, str]:
        try:
            return self.site.respond(exchange), ""
        except Exception as error:  # as Connection does it, but for faults of ours
            refused = kcistorage.refusal(error)
            if refused.status == 500:
                raise
            return kcistorage.plain(refused.status, refused.text, refused.headers), refused.reason

    def get(self, target: str, *lines: str) -> Told:
        return self.ask("GET", target, *lines)

    def post(self, body: bytes, *lines: str, email: str = EMAIL, length: Optional[int] = None) -> Told:
        """An upload of this very body."""
        return self.ask("POST", "/upload", bearer(email), FORM_TYPE, *lines, body=body, length=length)

    def upload(self, path: str, filename: str, content: Content, *lines: str, email: str = EMAIL) -> Told:
        return self.post(form(("path", None, path), ("file0", filename, content)), *lines, email=email)

    def put(self, key: str, content: bytes) -> None:
        """An object that is there, without an upload and its fsyncs (UP-12: files copied in by hand are served)."""
        path = self.storage / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def files(self) -> dict[str, bytes]:
        """Everything under the storage folder, the server's own files too."""
        return contents(self.storage)


OpenDesk = Callable[..., Desk]
IMPATIENT = LimitOptions(lock_seconds=0.2)


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[OpenDesk]:
    """Desks with other settings: `open_desk(users=(...), list=ListOptions(False))`."""
    desks: list[Desk] = []

    def open_one(**changes: Any) -> Desk:
        folder = tmp_path / f"desk-{len(desks)}"
        folder.mkdir()
        desks.append(Desk(folder, **changes))
        return desks[-1]

    yield open_one
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(open_desk: OpenDesk) -> Desk:
    return open_desk()


# ---- ST: status

GET_ROUTES = ["/", "/robots.txt", "/favicon.ico", "/v1/list", "/metrics", "/a/key"]


def test_banner(desk: Desk) -> None:
    """ST-1"""
    told = desk.get("/")
    assert (told.status, told.text) == (200, "KernelCI Proxy Server")
    assert told.fields["content-type"].startswith("text/plain")


def test_head_works_on_every_get_route(server: Running) -> None:
    """ST-1: and says what the GET says, without a body."""
    with server.peer() as peer:
        assert peer.upload(token(), "a", "key", b"content").status == 200
        for target in [*GET_ROUTES, "/missing"]:
            got, head = peer.get(target), peer.ask("HEAD", target)
            assert head.status == got.status != 500
            assert head.body == b""
            told = [
                {n: v for n, v in reply.fields.items() if n not in ("date", "content-length")} for reply in (head, got)
            ]
            assert told[0] == told[1], target
            if target != "/metrics":  # which counts the requests themselves
                assert head.fields.get("content-length") == got.fields.get("content-length")
        assert peer.ask("HEAD", "/v1/checkauth", bearer()).fields["content-length"] == str(len(f"Authorized: {EMAIL}"))


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", "/", "GET, HEAD"),
        ("GET", "/upload", "POST"),
        ("HEAD", "/upload", "POST"),
        ("GET", "/v1/file", "POST"),
        ("POST", "/v1/list", "GET, HEAD"),
        ("DELETE", "/v1/checkauth", "GET, HEAD"),
        ("PUT", "/some/object", "GET, HEAD"),
        ("OPTIONS", "/some/object", "GET, HEAD"),
        ("TRACE", "/metrics", "GET, HEAD"),
    ],
)
def test_a_known_method_in_the_wrong_place(desk: Desk, method: str, target: str, allowed: str) -> None:
    """ST-2"""
    told = desk.ask(method, target)
    assert (told.status, told.reason, told.fields["allow"]) == (405, "method-not-allowed", allowed)


@pytest.mark.parametrize("method", ["BREW", "get", "PROPFIND"])
@pytest.mark.parametrize("target", ["/", "/upload", "/some/object"])
def test_an_unknown_method(desk: Desk, method: str, target: str) -> None:
    """ST-2"""
    told = desk.ask(method, target)
    assert (told.status, told.reason) == (501, "method-unknown")


def test_robots_are_kept_out(desk: Desk) -> None:
    """ST-3"""
    told = desk.get("/robots.txt")
    assert told.status == 200
    assert told.text.splitlines() == ["User-agent: *", "Disallow: /"]


def test_the_icon_is_elsewhere(desk: Desk) -> None:
    """ST-3"""
    told = desk.get("/favicon.ico")
    assert told.status == 301
    assert re.fullmatch(r"https://kernelci\.org/\S*favicon\S*", told.fields["location"])


# ---- GA: gates


@pytest.mark.parametrize("agent", ["Mozilla/5.0 (compatible; AhrefsBot/7.0)", "GPTBOT/1.2", "xx petalbot xx"])
@pytest.mark.parametrize("target", ["/", "/a/key", "/v1/list", "/nowhere"])
def test_a_crawler_is_banned_before_any_handler(desk: Desk, agent: str, target: str) -> None:
    """GA-1: and the log says why."""
    told = desk.get(target, f"User-Agent: {agent}")
    assert (told.status, told.reason, told.text) == (403, "useragent-ban", "Forbidden")
    assert "event=useragent_ban" in desk.log_path.read_text()


@pytest.mark.parametrize("agent", ["Googlebot/2.1", "bingbot/2.0", "msnbot/2.0b", "adidxbot/2.0", "curl/8.5.0", ""])
def test_a_welcome_agent_is_not_banned(desk: Desk, agent: str) -> None:
    """GA-1"""
    assert desk.get("/", f"User-Agent: {agent}").status == 200
    assert desk.log_path.read_text() == ""


def test_bans_of_ones_own_add_to_the_built_in_list(open_desk: OpenDesk) -> None:
    """GA-1"""
    desk = open_desk(useragent=kcistorage.UserAgent(ban=("EvilTool",)))
    assert [desk.get("/", f"User-Agent: {a}").status for a in ("my eviltool/1", "GPTBot", "curl")] == [403, 403, 200]


def test_the_built_in_list_can_be_turned_off(open_desk: OpenDesk) -> None:
    """GA-1"""
    desk = open_desk(useragent=kcistorage.UserAgent(defaults=False, ban=("EvilTool",)))
    assert [desk.get("/", f"User-Agent: {a}").status for a in ("my eviltool/1", "GPTBot")] == [403, 200]


PAIR = re.compile(r'([a-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"]*))(?: |$)')


def values(line: str) -> dict[str, str]:
    """A logfmt line, read strictly: pairs, a space between them, and nothing else."""
    found: dict[str, str] = {}
    at = 0
    while at < len(line):
        match = PAIR.match(line, at)
        assert match is not None, f"not logfmt at {line[at:]!r}"
        name, text, word = match.groups()
        assert name not in found
        found[name] = word if text is None else json.loads(f'"{text}"')
        at = match.end()
    return found


def test_a_blocked_subnet(start: Start) -> None:
    """GA-2: every route, and one line that names the address."""
    server = start(block_subnets=("127.0.0.0/8", "2001:db8::/32"))
    with server.peer() as peer:
        for target in ("/", "/a/key", "/v1/list"):
            reply = peer.get(target, "User-Agent: curl/8.5.0")
            assert (reply.status, reply.text) == (403, "Forbidden")
    line = values(server.wait_for_log("event=subnet_ban"))
    assert (line["ip"], line["ua"], line["target"]) == ("127.0.0.1", "curl/8.5.0", "/")


def test_the_ban_of_an_uploader_stores_nothing(start: Start) -> None:
    """GA-2"""
    server = start(block_subnets=("127.0.0.1/32",))
    with server.peer() as peer:
        assert peer.upload(token(), "a", "b", b"c").status == 403
    assert contents(server.storage) == {}


BLOCKED = "198.51.100.9"


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([], "127.0.0.1"),
        ([f"X-Forwarded-For: {BLOCKED}"], BLOCKED),
        ([f"X-Forwarded-For: 203.0.113.1, {BLOCKED}"], BLOCKED),
        ([f"X-Forwarded-For: {BLOCKED}, 203.0.113.1"], "203.0.113.1"),  # the left end is what the client made up
        ([f"X-Forwarded-For: {BLOCKED}, 10.1.2.3"], BLOCKED),  # 10.1.2.3 is a proxy of ours
        (["X-Forwarded-For: 203.0.113.1", f"X-Forwarded-For: {BLOCKED}"], BLOCKED),
        ([f"Forwarded: for={BLOCKED};proto=https"], BLOCKED),
        ([f'Forwarded: for="{BLOCKED}:4711"', "X-Forwarded-For: 203.0.113.1"], "203.0.113.1"),
    ],
)
def test_the_client_behind_a_trusted_proxy(start: Start, lines: list[str], client: str) -> None:
    """GA-3: the right-most entry that is no proxy of ours is judged, and logged."""
    server = start(block_subnets=(f"{BLOCKED}/32",))
    with server.peer() as peer:
        assert peer.get("/", *lines).status == (403 if client == BLOCKED else 200)
    assert values(server.wait_for_log("event=access"))["ip"] == client


def test_a_stranger_is_not_believed(start: Start) -> None:
    """GA-3"""
    server = start(block_subnets=(f"{BLOCKED}/32",), trusted_proxies=())
    with server.peer() as peer:
        assert peer.get("/", f"X-Forwarded-For: {BLOCKED}").status == 200
    assert values(server.wait_for_log("event=access"))["ip"] == "127.0.0.1"


# ---- AU: tokens


@pytest.mark.parametrize("form_of_it", ["Bearer {}", "bearer {}", "Token {}", "{}", "  {}  "])
def test_a_token_with_any_scheme_or_none(desk: Desk, form_of_it: str) -> None:
    """AU-1, AU-4"""
    told = desk.get("/v1/checkauth", "Authorization: " + form_of_it.format(token()))
    assert (told.status, told.text) == (200, f"Authorized: {EMAIL}")


REFUSED_TOKENS = [
    ("token-missing", None),
    ("token-missing", ""),
    ("token-malformed", "Bearer a b"),
    ("token-malformed", "Bearer nonsense"),
    ("token-signature", f"Bearer {token(secret='another secret of thirty-two bytes')}"),
    ("token-expired", f"Bearer {token(exp=int(time.time()) - 1)}"),
    ("token-not-yet", f"Bearer {token(nbf=int(time.time()) + 600)}"),
    ("token-no-email", f"Bearer {token('', sub='somebody')}"),
    ("token-bad-email", "Bearer " + token("a@b\n", sub="somebody")),
]
REFUSED_TOKEN_IDS = [f"{number}-{reason}" for number, (reason, _) in enumerate(REFUSED_TOKENS)]  # the tokens hold times


@pytest.mark.parametrize(("reason", "credential"), REFUSED_TOKENS, ids=REFUSED_TOKEN_IDS)
def test_a_refused_token(desk: Desk, reason: str, credential: Optional[str]) -> None:
    """AU-2, AU-3, AU-4: always the same words, so that nobody learns how near a guess was."""
    lines = [] if credential is None else [f"Authorization: {credential}"]
    told = desk.get("/v1/checkauth", *lines)
    assert (told.status, told.reason, told.text) == (401, reason, "Unauthorized")
    assert told.fields["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("reason", "credential"), REFUSED_TOKENS, ids=REFUSED_TOKEN_IDS)
@pytest.mark.parametrize("route", ["/upload", "/v1/file"])
def test_no_upload_without_a_good_token(desk: Desk, route: str, reason: str, credential: Optional[str]) -> None:
    """AU-5"""
    lines = [] if credential is None else [f"Authorization: {credential}"]
    body = form(("path", None, "a"), ("file0", "b", b"c"))
    told = desk.ask("POST", route, FORM_TYPE, *lines, body=body)
    assert (told.status, told.reason, desk.files()) == (401, reason, {})


def test_the_token_is_judged_before_the_form(desk: Desk) -> None:
    """AU-5: 401 also where the body is no form at all."""
    assert desk.ask("POST", "/upload", body=b"no form").status == 401
    assert desk.ask("POST", "/upload", "Content-Type: text/plain", bearer(), body=b"no form").status == 400


def test_both_secrets_open_the_door(open_desk: OpenDesk) -> None:
    """AU-2"""
    other = "the secret of all services, as long"
    desk = open_desk(unified_secret=other)
    for secret in (SECRET, other):
        assert desk.get("/v1/checkauth", f"Authorization: {token(secret=secret)}").status == 200


def test_expiry_can_be_left_unjudged(open_desk: OpenDesk) -> None:
    """AU-3"""
    desk = open_desk(auth=kcistorage.Auth(enforce_expiry=False))
    assert desk.get("/v1/checkauth", f"Authorization: {token(exp=1, nbf=4_000_000_000)}").status == 200


def test_an_audience_is_ignored(desk: Desk) -> None:
    """AU-3"""
    for aud in ("somebody", ["some", "body"], 7):
        assert desk.get("/v1/checkauth", f"Authorization: {token(aud=aud)}").status == 200


USERS = (
    kcistorage.User("lab@example.org", ("lab/", "/shared/lab/")),
    kcistorage.User("all@example.org", ("",)),
    kcistorage.User("nobody@example.org"),
    kcistorage.User("wide@example.org", ("restricted-area",)),
)


@pytest.mark.parametrize(
    ("email", "path", "filename", "allowed"),
    [
        ("lab@example.org", "lab/1", "x", True),
        ("lab@example.org", "/lab/1", "x", True),
        ("lab@example.org", "shared/lab", "x", True),
        ("lab@example.org", "", "lab/x", True),
        ("lab@example.org", "elsewhere", "x", False),
        ("lab@example.org", "lab-2", "x", False),
        ("lab@example.org", "", "x", False),
        ("all@example.org", "anywhere", "x", True),
        ("nobody@example.org", "lab", "x", False),
        ("stranger@example.org", "lab", "x", False),
        ("wide@example.org", "restricted-area-2", "x", True),  # Upstream: plain text, not a folder
    ],
)
def test_prefixes(open_desk: OpenDesk, email: str, path: str, filename: str, allowed: bool) -> None:
    """AU-6"""
    desk = open_desk(users=USERS)
    told = desk.upload(path, filename, b"content", email=email)
    if allowed:
        assert told.status == 200
    else:
        assert (told.status, told.reason) == (403, "not-permitted")
        assert told.text == f"User {email} has no upload permissions for path {path or filename}"
        assert desk.files() == {}


@pytest.mark.parametrize("path", ["/./lab", "lab/./", ".//lab//", "lab"])
def test_permission_is_judged_on_the_key_and_not_on_the_field(open_desk: OpenDesk, path: str) -> None:
    """AU-6: what counts is where the object will be."""
    desk = open_desk(users=USERS)
    assert desk.upload(path, "x", b"content").status == 200
    assert desk.get("/lab/x").body == b"content"


@pytest.mark.parametrize(("path", "filename"), [("lab", "../other/x"), ("lab/../other", "x"), ("lab/..", "x")])
def test_no_way_out_of_a_prefix(open_desk: OpenDesk, path: str, filename: str) -> None:
    """AU-6, UP-4"""
    desk = open_desk(users=USERS)
    told = desk.upload(path, filename, b"content")
    assert (told.status, told.reason, desk.files()) == (400, "key-dotdot", {})


def test_one_forbidden_file_refuses_the_whole_form(open_desk: OpenDesk) -> None:
    """AU-6, UP-5: in both orders."""
    desk = open_desk(users=USERS)
    good, bad = ("file0", "lab/x", b"1"), ("file1", "other/x", b"2")
    path: Field = ("path", None, "")
    for fields in ([good, bad], [path, good, bad], [good, bad, path], [good, path, bad]):
        assert desk.post(form(*fields)).status == 403
        assert desk.files() == {}


# ---- UP: upload


@pytest.mark.parametrize("route", ["/upload", "/v1/file"])
def test_an_upload_and_what_it_leaves(desk: Desk, route: str) -> None:
    """UP-1: 200, an empty body, and the ETag that a download will have."""
    body = form(("path", None, "builds/1"), ("file0", "log.txt", b"hello"))
    told = desk.ask("POST", route, bearer(), FORM_TYPE, body=body)
    assert (told.status, told.body) == (200, b"")
    got = desk.get("/builds/1/log.txt")
    assert (got.status, got.body, got.fields["etag"]) == (200, b"hello", told.fields["etag"])


def test_file0_before_path(desk: Desk) -> None:
    """UP-2: as the dashboard ingester sends it."""
    assert desk.post(form(("file0", "x", b"content"), ("path", None, "a/b"))).status == 200
    assert desk.get("/a/b/x").body == b"content"


def test_a_path_that_carries_a_filename(desk: Desk) -> None:
    """UP-2: Upstream took such a part for a file, and lost the path."""
    for number, fields in enumerate([("path", "file0"), ("file0", "path")]):
        told: dict[str, Field] = {"path": ("path", "path", f"a/{number}"), "file0": ("file0", "x", b"content")}
        assert desk.post(form(*(told[name] for name in fields))).status == 200
        assert desk.get(f"/a/{number}/x").body == b"content"
        assert desk.get(f"/a/{number}/path").status == 404


def sidecar_name(key: str) -> str:
    return f".metadata/{hashlib.sha512(key.encode()).hexdigest()}.headers"


def test_other_fields_around_and_between(desk: Desk) -> None:
    """UP-2, UP-5: they are ignored, whatever they hold."""
    fields: list[Field] = [
        ("revision", None, "abc"),
        ("path", None, "a"),
        ("file", "not-this", b"1"),
        ("file0", "x", b"content"),
        ("file0x", "nor-this", b"2"),
        ("FILE1", "nor-that", b"3"),
        ("", None, b"nameless"),
        ("notes", None, bytes(range(256))),
    ]
    assert desk.post(form(*fields)).status == 200
    assert set(desk.files()) == {"a/x", sidecar_name("a/x")}


@pytest.mark.parametrize(
    ("path", "filename", "key"),
    [
        ("", "x", "x"),
        (None, "x", "x"),
        ("/", "x", "x"),
        ("a/b", "x", "a/b/x"),
        ("/a/b/", "x", "a/b/x"),
        ("a//b///", "x", "a/b/x"),
        ("./a/./b/.", "./x", "a/b/x"),
        ("a", "b/c/x", "a/b/c/x"),
        ("a", "/b/x", "a/b/x"),
        ("", "a..b", "a..b"),
        ("...", "..x", ".../..x"),
        ("a%2Fb", "c%20d", "a%2Fb/c%20d"),
        ("a+b=c", "~;,%ü €", "a+b=c/~;,%ü €"),
        ("sp ace", 'quo\\"te', 'sp ace/quo"te'),
        ("a\\b", "c\\d", "a\\b/c\\d"),
        ("v1", "listing", "v1/listing"),
        ("metrics", "x", "metrics/x"),
    ],
)
def test_the_key_that_path_and_filename_make(desk: Desk, path: Optional[str], filename: str, key: str) -> None:
    """UP-3: and a URL that finds it (DL-1)."""
    fields: list[Field] = [] if path is None else [("path", None, path)]
    for number, order in enumerate([[*fields, ("file0", filename, b"0")], [("file0", filename, b"1"), *fields]]):
        told = desk.post(form(*order))
        assert told.status == 200
        assert told.exchange.key == key
        assert desk.get("/" + quote(key)).body == b"%d" % number
        assert desk.get("/v1/list").text == f"{key}\n"


def test_filename_star_is_ignored(desk: Desk) -> None:
    """UP-3"""
    head = 'form-data; name="file0"; filename="plain.txt"; filename*=UTF-8\'\'other.txt'
    body = part("path", None, "a") + part("x", None, b"c") + b"--" + FORM_TYPE.partition("boundary=")[2].encode()
    body += f"\r\nContent-Disposition: {head}\r\n\r\nc\r\n".encode() + form()
    assert desk.post(body).status == 200
    assert desk.get("/v1/list").text == "a/plain.txt\n"


LONG = "s" * 255


class Bad(NamedTuple):
    """A form that is refused. `good` differs from it by the one thing that is wrong, and is accepted."""

    reason: str
    bad: bytes
    good: bytes


def named(reason: str, bad: tuple[Content, str], good: tuple[Content, str]) -> Iterator[Bad]:
    """(path, filename) of either kind, in both orders of the fields."""
    (bad_path, bad_name), (good_path, good_name) = bad, good
    for swap in (1, -1):
        forms = [
            form(*[("path", None, path), ("file0", name, b"content")][::swap])
            for path, name in ((bad_path, bad_name), (good_path, good_name))
        ]
        yield Bad(reason, *forms)


GOOD = form(("path", None, "a"), ("file0", "x", b"content"))
BAD_FORMS: list[Bad] = [
    *named("key-dotdot", ("a/../b", "x"), ("a/..b", "x")),
    *named("key-dotdot", ("a", "../x"), ("a", "x..")),
    *named("key-dotdot", ("a", "b/../../x"), ("a", "b/x")),
    *named("key-control", (b"a\0b", "x"), (b"ab", "x")),
    *named("key-control", ("a\nb", "x"), ("a b", "x")),
    *named("key-control", ("a\x7f", "x"), ("a~", "x")),
    *named("key-control", ("a\x85", "x"), ("a\xa0", "x")),
    *named("path-not-utf8", (b"a\xff", "x"), (b"a\xc3\xbf", "x")),
    *named("path-not-utf8", (b"a\xed\xa0\x80", "x"), (b"a\xed\x9f\xbf", "x")),
    *named("key-segment-long", (LONG + "s", "x"), (LONG, "x")),
    *named("key-segment-long", ("a", "ü" * 128), ("a", "ü" * 127)),
    *named("key-long", ("/".join([LONG] * 3), LONG + "/x"), ("/".join([LONG] * 3), "s" * 254 + "/x")),
    *named("path-too-long", ("a" + "/" * 4096, "x"), ("a" + "/" * 4095, "x")),
    *named("key-no-filename", ("a", "/"), ("a", "/x")),
    *named("key-no-filename", ("a", "b/"), ("a", "b/x")),
    *named("key-no-filename", ("a", "."), ("a", ".x")),
    *named("no-filename", ("a", ""), ("a", "x")),
    *named("key-reserved", ("", ".metadata"), ("", "metadata")),
    *named("key-reserved", (".metadata", "x"), (".metadata2", "x")),
    *named("key-reserved", ("/.//.metadata/", "uploads/x"), ("a/.metadata", "uploads/x")),
    *named("key-reserved", ("", "upload"), ("", "uploads")),
    *named("key-reserved", ("", "metrics"), ("a", "metrics")),
    *named("key-reserved", ("", "robots.txt"), ("a", "robots.txt")),
    *named("key-reserved", ("", "favicon.ico"), ("a", "favicon.ico")),
    *named("key-reserved", ("v1", "list"), ("v2", "list")),
    *named("key-reserved", ("/v1/", "./file"), ("/v1/", "./file/x")),
    *named("key-reserved", ("", "v1/checkauth"), ("", "v1/checkauth2")),
    *named("key-reserved", ("v1", "archive"), ("v1", "archive.tar")),
    *named("key-reserved", ("v1", "download-challenge"), ("v1", "download")),
    Bad("no-file0", form(("path", None, "a")), GOOD),
    Bad("no-file0", form(("path", None, "a"), ("file1", "x", b"content")), GOOD),
    Bad("no-file0", form(("path", None, "a"), ("File0", "x", b"content")), GOOD),
    Bad("no-file0", form(), GOOD),
    Bad("no-filename", form(("path", None, "a"), ("file0", None, b"content")), GOOD),
    Bad("path-repeated", form(("path", None, "a"), ("file0", "x", b""), ("path", None, "a")), GOOD),
    Bad("path-repeated", form(("path", None, ""), ("path", None, "a"), ("file0", "x", b"")), GOOD),
    Bad("key-repeated", form(("path", None, "a"), ("file0", "x", b"1"), ("file1", "./x", b"2")), GOOD),
    Bad("key-repeated", form(("file0", "x", b"1"), ("file1", "x", b"2"), ("path", None, "a")), GOOD),
    Bad("key-repeated", form(("file0", "x", b"1"), ("path", None, ""), ("file0", "x", b"2")), GOOD),
    Bad(
        "too-many-files",
        form(*(("file0", f"{n}", b"") for n in range(101))),
        form(*(("file0", f"{n}", b"") for n in range(100))),
    ),
    Bad("form-not-utf8", GOOD.replace(b'"x"', b'"\xff"'), GOOD.replace(b'"x"', b'"\xc3\xbf"')),
    Bad("form-control-character", GOOD.replace(b'"x"', b'"\x01"'), GOOD),
    Bad("form-part-unnamed", GOOD.replace(b'; name="path"', b""), GOOD.replace(b'; name="path"', b'; name="other"')),
    Bad("form-malformed", b"not a form, but as long as a boundary line would be", GOOD),
    Bad("form-malformed", GOOD.replace(b"Content-Disposition", b"Content Disposition"), GOOD),
    Bad("form-truncated", GOOD[:-4], GOOD),
    Bad("form-truncated", GOOD[:-30], GOOD),
    Bad("form-truncated", b"", GOOD),
]
BEFORE = ("kept", "object", b"as it was")


@pytest.mark.parametrize("bad", BAD_FORMS, ids=[f"{number}-{bad.reason}" for number, bad in enumerate(BAD_FORMS)])
def test_a_refused_form_stores_nothing(open_desk: OpenDesk, bad: Bad) -> None:
    """UP-4: 400 with one line, and not a byte more on the disk than before; its twin is stored."""
    desk = open_desk(limits=IMPATIENT)
    assert desk.upload(*BEFORE).status == 200
    before = desk.files()
    told = desk.post(bad.bad)
    assert (told.status, told.reason) == (400, bad.reason)
    assert len(told.text.splitlines()) == 1
    assert str(desk.storage) not in told.text
    assert desk.files() == before
    assert [path for path in desk.storage.iterdir() if path.name not in (".metadata", "kept")] == []
    assert desk.post(bad.good).status == 200
    assert len(desk.files()) > len(before)


@pytest.mark.parametrize(
    ("content_type", "reason"),
    [
        (None, "form-not-multipart"),
        ("text/plain", "form-not-multipart"),
        ("application/x-www-form-urlencoded", "form-not-multipart"),
        ("multipart/mixed; boundary=x", "form-not-multipart"),
        ("multipart/form-data", "form-no-boundary"),
        ("multipart/form-data; boundary=", "form-malformed"),
        ('multipart/form-data; boundary=""', "form-no-boundary"),
    ],
)
def test_what_is_no_form(desk: Desk, content_type: Optional[str], reason: str) -> None:
    """UP-4"""
    lines = [] if content_type is None else [f"Content-Type: {content_type}"]
    told = desk.ask("POST", "/upload", bearer(), *lines, body=GOOD)
    assert (told.status, told.reason, desk.files()) == (400, reason, {})


@pytest.mark.parametrize("kept", [0, 1, len(GOOD) // 2, len(GOOD) - 1])
def test_a_body_shorter_than_declared(desk: Desk, kept: int) -> None:
    """UP-4"""
    told = desk.post(GOOD[:kept], length=len(GOOD))
    assert (told.status, told.reason, desk.files()) == (400, "body-truncated", {})


@pytest.mark.parametrize(
    ("path", "filename"),
    [
        ("a/object", "x"),  # an object would have to become a folder
        ("a/object/b/c", "x"),
        ("", "a/object/x"),
        ("", "a"),  # a folder would have to become an object
        ("./", "/a"),
        ("a/", "deep"),
    ],
)
def test_an_object_and_a_folder_of_one_name(desk: Desk, path: str, filename: str) -> None:
    """UP-4: 409, in both orders of the fields, and all stays as it is."""
    assert desk.upload("a", "object", b"1").status == desk.upload("a/deep/er", "object", b"2").status == 200
    before = desk.files()
    fields: list[Field] = [("path", None, path), ("file0", filename, b"content")]
    for order in (fields, fields[::-1]):
        told = desk.post(form(*order))
        assert (told.status, told.reason) == (409, "key-conflict")
        assert desk.files() == before
    assert [path.name for path in (desk.storage / "a").rglob("*")].count("object") == 2


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a")])
def test_an_object_and_a_folder_of_one_name_in_one_form(desk: Desk, names: Sequence[str]) -> None:
    """UP-4: nothing is stored, the first file neither."""
    told = desk.post(form(*((f"file{n}", name, b"content") for n, name in enumerate(names))))
    assert (told.status, told.reason) == (409, "key-conflict")
    assert desk.files() == {}


def test_all_files_of_a_form_are_stored(desk: Desk) -> None:
    """UP-5: kernelci-core sends several; Upstream keeps the first and says 200."""
    files: list[Field] = [(f"file{n}", f"f{n}.txt", f"content {n}") for n in (0, 1, 2, 10)]
    for order in ([("path", None, "p"), *files], [*files[::-1], ("path", None, "p")]):
        told = desk.post(form(*order))
        assert told.status == 200
        for field, _, content in files:
            assert desk.get(f"/p/f{field[4:]}.txt").text == content
        assert told.fields["etag"] == desk.get("/p/f0.txt").fields["etag"], "that of file0"
    assert desk.get("/v1/list").text.splitlines() == ["p/f0.txt", "p/f1.txt", "p/f10.txt", "p/f2.txt"]


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("x.bin", "application/octet-stream"),
        ("x.txt", "text/plain"),
        ("x.log", "text/plain"),
        ("x.gz", "application/gzip"),
        ("x.tar", "application/x-tar"),
        ("x.zip", "application/zip"),
        ("x.tgz", "application/x-gzip"),
        ("x.xz", "application/x-xz"),
        ("x.lz", "application/x-lzip"),
        ("x.json", "application/json"),
        ("x.tar.gz", "application/gzip"),
        ("x.LOG", "text/plain"),
        ("x.html", "text/html"),
        ("x.unheard-of", "application/octet-stream"),
        ("Image", "application/octet-stream"),
    ],
)
def test_the_type_comes_from_the_extension(desk: Desk, filename: str, expected: str) -> None:
    """UP-6: and there is never a Content-Encoding."""
    assert desk.upload("a", filename, b"content").status == 200
    got = desk.get(f"/a/{filename}")
    assert got.fields["content-type"] == expected
    assert "content-encoding" not in got.fields


@pytest.mark.parametrize("told", ["text/x-log", 'text/plain; charset="utf-8"', "application/vnd.kernel+gzip"])
def test_the_uploader_says_the_type(desk: Desk, told: str) -> None:
    """UP-6"""
    assert desk.upload("a", "x.txt", b"content", f"Content-Type-Upstream: {told}").status == 200
    assert desk.get("/a/x.txt").fields["content-type"] == told


@pytest.mark.parametrize("told", ["nonsense", "text/", "/plain", "text/plain; charset", "text/plain\tx", "text/h\xe9"])
def test_a_type_that_is_none(desk: Desk, told: str) -> None:
    """UP-6: it would break the head of every download."""
    reply = desk.upload("a", "x.txt", b"content", f"Content-Type-Upstream: {told}")
    assert (reply.status, reply.reason, desk.files()) == (400, "media-type-malformed", {})


SMALL = LimitOptions(upload_bytes=1000)


@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413)])
def test_the_largest_file(open_desk: OpenDesk, size: int, status: int) -> None:
    """UP-7: the limit is one of files, whatever the form around them adds."""
    desk = open_desk(limits=SMALL)
    assert desk.upload("a", "x", b"c" * size).status == status
    assert ("a/x" in desk.files()) == (status == 200)


def test_a_declared_length_above_the_limit_is_refused_unread(start: Start) -> None:
    """UP-7: before a byte of it was sent."""
    server = start(limits=SMALL)
    with server.peer() as peer:
        peer.send(f"POST /upload HTTP/1.1\r\nHost: x\r\n{bearer()}\r\n{FORM_TYPE}\r\nContent-Length: {1 << 40}\r\n\r\n")
        reply = peer.reply()
    assert (reply.status, reply.fields["connection"]) == (413, "close")
    assert values(server.wait_for_log("event=access"))["reason"] == "body-too-large"
    assert contents(server.storage) == {}


def post_chunked(peer: Peer, blocks: Sequence[bytes]) -> Reply:
    lines = ["POST /upload HTTP/1.1", "Host: x", bearer(), FORM_TYPE, "Transfer-Encoding: chunked"]
    peer.send("\r\n".join(lines) + "\r\n\r\n").send(chunked(blocks))
    return peer.reply()


def test_a_chunked_body_is_counted(start: Start) -> None:
    """UP-7, UP-11: nobody says how long it is, so it is refused where it becomes too long, and the client learns it."""
    server = start(limits=SMALL)
    big = b"c" * (3 << 20)
    for field, reason in [(("file0", "x", big), "file-too-large"), (("note", None, big), "body-too-large")]:
        body = form(("path", None, "a"), field, ("file0", "x", b"content"))
        with server.peer() as peer:
            reply = post_chunked(peer, [body[at : at + 65_536] for at in range(0, len(body), 65_536)])
            assert (reply.status, reply.fields["connection"]) == (413, "close")
        server.wait_for_log(reason)
    assert contents(server.storage) == {}


def test_a_chunked_upload(server: Running) -> None:
    """UP-7: the same form as with a length, in any chunks."""
    with server.peer() as peer:
        for blocks in ([GOOD], [GOOD[at : at + 7] for at in range(0, len(GOOD), 7)]):
            assert post_chunked(peer, blocks).status == 200
            assert peer.get("/a/x").body == b"content"


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Waits for what the server is about to do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.002)


class HalfUpload:
    """An upload of which the path and a part of the file are on the wire: its key is locked once this exists."""

    def __init__(self, server: Running, path: str, filename: str, content: bytes) -> None:
        self.uploads = server.storage / ".metadata" / "uploads"
        before = len(list(self.uploads.iterdir()))
        whole = form(("path", None, path), ("file0", filename, content))
        cut = whole.index(content) + len(content) // 2
        self.rest = whole[cut:]
        self.peer = server.peer()
        lines = ["POST /upload HTTP/1.1", "Host: x", bearer(), FORM_TYPE, f"Content-Length: {len(whole)}"]
        self.peer.send("\r\n".join(lines).encode() + b"\r\n\r\n" + whole[:cut])
        until(lambda: len(list(self.uploads.iterdir())) > before)  # opened after the key was locked

    def __enter__(self) -> HalfUpload:
        return self

    def __exit__(self, *exception: object) -> None:
        self.peer.socket.close()

    def finish(self) -> Reply:
        return self.peer.send(self.rest).reply()

    def vanish(self) -> None:
        """As a client that crashes: with a reset."""
        self.peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.socket.close()


OLD, NEW, OTHER = b"old " * 50, b"new " * 50, b"other " * 50


def test_a_second_upload_of_a_key_gives_up(start: Start) -> None:
    """UP-9, DL-6: 409 for an upload, 408 for a download; and the first one is unharmed."""
    server = start(limits=IMPATIENT)
    with server.peer() as peer:
        assert peer.upload(token(), "a", "x", OLD).status == 200
        with HalfUpload(server, "a", "x", NEW) as half:
            second = peer.upload(token(), "/a/", "x", OTHER)
            assert (second.status, second.text) == (409, "Timeout waiting for upload")
            assert server.wait_for_log("upload-locked")
            for method in ("GET", "HEAD"):
                reply = peer.ask(method, "/a/x")
                assert reply.status == 408
            assert peer.get("/a//x").text == "Timeout waiting for upload"
            assert half.finish().status == 200
        assert peer.get("/a/x").body == NEW


def test_other_keys_do_not_wait(server: Running) -> None:
    """UP-9: the peer gives up after 10 s; who waited for the upload of a/x would do so for 30."""
    with server.peer() as peer:
        assert peer.upload(token(), "a", "x", OLD).status == 200
        with HalfUpload(server, "a", "x", NEW), HalfUpload(server, "a", "z", NEW):
            assert peer.upload(token(), "a", "y", OTHER).status == 200
            assert peer.get("/a/y").body == OTHER
            assert peer.get("/v1/list").text == "a/x\na/y\n"


def test_a_refused_lock_comes_before_the_body(start: Start) -> None:
    """UP-9, UP-11: a second upload learns of its 409 although most of its body is still to come."""
    server = start(limits=IMPATIENT)
    with HalfUpload(server, "a", "x", OLD), HalfUpload(server, "a", "y", NEW), server.peer() as peer:
        body = form(("path", None, "a"), ("file0", "x", b"c" * (4 << 20)))
        lines = ["POST /upload HTTP/1.1", "Host: x", bearer(), FORM_TYPE, f"Content-Length: {len(body)}"]
        peer.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body[:100_000])
        reply = peer.reply()
        assert (reply.status, reply.fields["connection"]) == (409, "close")
        peer.send(body[100_000:])  # nobody resets a client that is slow to look
        assert peer.rest() == b""


def ask_for_x(peer: Peer, order: str) -> None:
    """A request that will have to wait for a/x, on the wire; `peer` is not yet read."""
    if order == "download":
        peer.send("GET /a/x HTTP/1.1\r\nHost: x\r\n\r\n")
    else:
        body = form(("path", None, "a"), ("file0", "x", NEW))
        head = "\r\n".join(["POST /upload HTTP/1.1", "Host: x", bearer(), FORM_TYPE, f"Content-Length: {len(body)}"])
        peer.send(head.encode() + b"\r\n\r\n" + body)


@pytest.mark.parametrize("order", ["upload", "download"])
def test_who_waits_gets_the_key_when_the_upload_ends(start: Start, order: str) -> None:
    """UP-9, DL-6"""
    server = start()
    with HalfUpload(server, "a", "x", OLD) as half, server.peer() as peer:
        ask_for_x(peer, order)
        assert half.finish().status == 200
        reply = peer.reply()
        assert reply.status == 200
        assert reply.body == (OLD if order == "download" else b"")
        assert peer.get("/a/x").body == (OLD if order == "download" else NEW)


@pytest.mark.parametrize("order", ["upload", "download"])
def test_the_key_of_an_uploader_that_vanishes_is_free_at_once(start: Start, order: str) -> None:
    """UP-9: long before anybody's patience ends; and nothing of it is left."""
    server = start()
    with server.peer() as peer:
        with HalfUpload(server, "a", "x", OLD) as half:
            ask_for_x(peer, order)
            half.vanish()
            assert peer.reply().status == (404 if order == "download" else 200)
        assert list(half.uploads.iterdir()) == []


def test_an_upload_that_falls_silent_is_dropped(start: Start) -> None:
    """UP-9: 408, and its key is free."""
    server = start(limits=LimitOptions(body_idle_seconds=0.2))
    with server.peer() as peer:
        assert peer.upload(token(), "a", "x", OLD).status == 200
        with HalfUpload(server, "a", "x", NEW) as half:
            reply = half.peer.reply()
            assert (reply.status, reply.fields["connection"]) == (408, "close")
            assert half.peer.rest() == b""
        assert peer.get("/a/x").body == OLD
    assert list(half.uploads.iterdir()) == []
    server.wait_for_log("body-timeout")


def test_files_whose_path_comes_last_wait_for_their_key_too(start: Start) -> None:
    """UP-2, UP-9: file0 is there in whole when its key turns out to be taken."""
    server = start(limits=IMPATIENT)
    with HalfUpload(server, "a", "x", OLD) as half, server.peer() as peer:
        body = form(("file0", "x", NEW), ("path", None, "a"))
        assert peer.ask("POST", "/upload", bearer(), FORM_TYPE, body=body).status == 409
        assert half.finish().status == 200
        assert peer.get("/a/x").body == OLD


BIG = 6 << 20  # bytes; more than the buffers of a loopback connection hold


@pytest.mark.parametrize(
    ("status", "lines", "changes"),
    [
        (401, [FORM_TYPE], {}),
        (403, [FORM_TYPE, bearer(), "User-Agent: GPTBot"], {}),
        (403, [FORM_TYPE, bearer()], {"users": USERS[1:]}),
        (400, ["Content-Type: text/plain", bearer()], {}),
        (413, [FORM_TYPE, bearer()], {"limits": SMALL}),
        (405, [FORM_TYPE, bearer()], {}),
    ],
)
def test_the_refusal_of_a_large_body_reaches_the_client(
    start: Start, status: int, lines: list[str], changes: dict[str, Any]
) -> None:
    """UP-11: a client that sends all it has before it looks is not reset."""
    server = start(**changes)
    body = form(("path", None, "a"), ("file0", "x", b"c" * BIG))
    with server.peer() as peer:
        reply = peer.ask("POST", "/a/x" if status == 405 else "/upload", *lines, body=body)
        assert (reply.status, reply.fields["connection"]) == (status, "close")
        assert len(reply.text.splitlines()) == 1
        assert peer.rest() == b""
    assert contents(server.storage) == {}


def test_a_client_that_waits_for_100_is_refused_without_a_body(server: Running) -> None:
    """UP-7, AU-5: the token is judged before anything is asked for."""
    body = form(("path", None, "a"), ("file0", "x", b"content"))
    lines = ["POST /upload HTTP/1.1", "Host: x", FORM_TYPE, f"Content-Length: {len(body)}", "Expect: 100-continue"]
    with server.peer() as peer:
        assert peer.send("\r\n".join(lines) + "\r\n\r\n").reply().status == 401
        assert peer.rest() == b""
    with server.peer() as peer:
        assert peer.send("\r\n".join([*lines, bearer()]) + "\r\n\r\n").reply().status == 100
        assert peer.send(body).reply().status == 200


def test_the_object_remembers_owner_and_type(desk: Desk) -> None:
    """UP-12: in the lines that other tools read."""
    assert desk.upload("a", "x.log", b"content").status == 200
    lines = desk.files()[sidecar_name("a/x.log")].decode().splitlines()
    assert "content-type:text/plain" in lines
    assert f"tag-owner:{EMAIL}" in lines
    assert not any(line.startswith("tag-retention") for line in lines)


def test_the_object_has_its_retention_tag(open_desk: OpenDesk) -> None:
    """UP-12"""
    for tag_key, retention in [
        ("retention", kcistorage.Retention(tag_value="6m")),
        ("keep", kcistorage.Retention(tag_key="keep", tag_value="1y")),
    ]:
        desk = open_desk(retention=retention)
        assert desk.upload("a", "x", b"content").status == 200
        assert f"tag-{tag_key}:{retention.tag_value}\n" in desk.files()[sidecar_name("a/x")].decode()


def test_content_copied_in_by_hand(desk: Desk) -> None:
    """UP-12: without a sidecar the extension tells the type."""
    (desk.storage / "by" / "hand").mkdir(parents=True)
    (desk.storage / "by" / "hand" / "x.json").write_bytes(b"{}")
    got = desk.get("/by/hand/x.json")
    assert (got.status, got.body, got.fields["content-type"]) == (200, b"{}", "application/json")
    assert desk.get("/v1/list").text == "by/hand/x.json\n"


def test_a_sidecar_that_another_tool_wrote(desk: Desk) -> None:
    """UP-12: its type counts; one that no head could carry does not."""
    for number, (line, expected) in enumerate(
        [("content-type:text/x-by-hand", "text/x-by-hand"), ("content-type:bad\rX: y", "text/plain")]
    ):
        key = f"x{number}.txt"
        (desk.storage / key).write_bytes(b"content")
        (desk.storage / sidecar_name(key)).write_bytes(f"{line}\ntag-owner:somebody\n".encode())
        assert desk.get(f"/{key}").fields["content-type"] == expected


def test_a_sidecar_without_content_is_no_object(desk: Desk) -> None:
    """UP-12, DL-3"""
    assert desk.upload("a", "x", b"content").status == 200
    (desk.storage / "a" / "x").unlink()
    assert desk.get("/a/x").status == 404
    assert desk.get("/v1/list").text == ""
    assert desk.upload("a", "x", b"again").status == 200
    assert desk.get("/a/x").body == b"again"


# ---- DL: download


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("/a/x", "a/x"),
        ("//a///x", "a/x"),
        ("/a/./x", "a/x"),
        ("/a/x?any=query&challenge_fallback=1", "a/x"),
        ("/%61/%78", "a/x"),
        ("/a%2Fx", "a/x"),
        ("http://elsewhere.example/a/x", "a/x"),
        ("/a+b", "a+b"),
        ("/a%2Bb", "a+b"),
        ("/a%20b", "a b"),
        ("/a%2520b", "a%20b"),
        ("/100%", "100%"),
        ("/100%25", "100%"),
        ("/%C3%BC=~;,%E2%82%AC", "ü=~;,€"),
        ("/ü=~;,€", "ü=~;,€"),
        ("/a..b", "a..b"),
        ("/.metadata2/x", ".metadata2/x"),
        ("/a/.metadata/x", "a/.metadata/x"),
    ],
)
def test_what_a_target_names(desk: Desk, target: str, key: str) -> None:
    """DL-1"""
    desk.put(key, b"content")
    told = desk.get(target)
    assert (told.status, told.body, told.exchange.key) == (200, b"content", key)


def test_the_headers_of_a_download(desk: Desk) -> None:
    """DL-2: and HEAD has the same (DL-1)."""
    before = int(time.time())
    assert desk.upload("a", "x.txt", b"content").status == 200
    got, head = desk.get("/a/x.txt"), desk.ask("HEAD", "/a/x.txt")
    assert got.fields == head.fields
    assert got.fields["content-type"] == "text/plain"
    assert got.fields["content-disposition"] == 'attachment; filename="x.txt"'
    assert got.fields["accept-ranges"] == "bytes"
    assert got.fields["x-content-type-options"] == "nosniff"
    assert re.fullmatch(r'"[!#-~]+"', got.fields["etag"]), "strong"
    modified = parsedate_to_datetime(got.fields["last-modified"]).timestamp()
    assert before <= modified <= time.time()


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("Image.gz", 'attachment; filename="Image.gz"'),
        ("sp ace", 'attachment; filename="sp ace"'),
        ("ü€", "attachment; filename=\"ü€\"; filename*=UTF-8''%C3%BC%E2%82%AC"),
        ('q\\"b\\s', "attachment; filename=\"q_b_s\"; filename*=UTF-8''q%22b%5Cs"),
        ("50%25", "attachment; filename=\"50%25\"; filename*=UTF-8''50%2525"),
    ],
)
def test_the_name_under_which_it_is_saved(desk: Desk, name: str, disposition: str) -> None:
    """DL-2"""
    told = desk.upload("a/folder", name, b"content")
    assert told.status == 200
    assert desk.get("/" + quote(told.exchange.key)).fields["content-disposition"] == disposition


def test_every_overwrite_changes_the_etag(desk: Desk) -> None:
    """DL-2: also with the same bytes, within one tick of any clock; and the answer to the upload names it (UP-1)."""
    seen = [desk.upload("a", "x", b"content").fields["etag"] for _ in range(50)]
    assert len(set(seen)) == 50
    assert desk.get("/a/x").fields["etag"] == seen[-1]


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("/missing", "missing"),
        ("/a", "a"),
        ("/a/", "/a/"),
        ("/a/x/", "a/x/"),
        ("/a/x/y", "a/x/y"),
        ("/.metadata", ".metadata"),
        ("/.metadata/uploads", ".metadata/uploads"),
        ("//.metadata//uploads/..", None),
        ("/a/../a/x", None),
        ("/%2e%2e/etc/passwd", None),
        ("/a%00x", None),
        ("/a%0Ax", None),
        ("/%FF", None),
        ("/" + "s" * 256, None),
        ("/" + "s/" * 600 + "x", None),
        ("*", None),
    ],
)
def test_what_is_not_found(desk: Desk, target: str, named: Optional[str]) -> None:
    """DL-3: in one line, whatever the target was."""
    desk.put("a/x", b"content")
    told = desk.get(target)
    assert (told.status, told.reason) == (404, "not-found")
    assert told.text.startswith("Not Found: ")
    assert len(told.text.splitlines()) == 1
    if named is not None:
        assert told.text.strip("/") == f"Not Found: {named}".strip("/").replace(": /", ": ")


def test_the_servers_own_files_are_not_found(desk: Desk) -> None:
    """DL-3: neither directly nor in disguise."""
    assert desk.upload("a", "x", b"content").status == 200
    name = sidecar_name("a/x")
    assert name in desk.files()
    for target in (f"/{name}", f"//{name}", f"/./{name}", f"/%2Emetadata/{name[10:]}", f"/a/../{name}"):
        assert desk.get(target).status == 404


LONG_AGO, IN_THE_FUTURE = "Sun, 06 Nov 1994 08:49:37 GMT", "Sat, 01 Jan 2050 00:00:00 GMT"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["If-Match: ETAG"], 200),
        (['If-Match: "other", ETAG'], 200),
        (["If-Match: *"], 200),
        (['If-Match: "other"'], 412),
        (["If-Match: W/ETAG"], 412),
        ([f"If-Unmodified-Since: {LONG_AGO}"], 412),
        (["If-Unmodified-Since: MODIFIED"], 200),
        (["If-Match: ETAG", f"If-Unmodified-Since: {LONG_AGO}"], 200),
        (["If-None-Match: ETAG"], 304),
        (['If-None-Match: "other",W/ETAG'], 304),
        (["If-None-Match: *"], 304),
        (['If-None-Match: "other"'], 200),
        (["If-Modified-Since: MODIFIED"], 304),
        ([f"If-Modified-Since: {LONG_AGO}"], 200),
        (["If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT"], 200),
        (["If-Modified-Since: nonsense"], 200),
        (['If-None-Match: "other"', "If-Modified-Since: MODIFIED"], 200),
        (['If-Match: "other"', "If-None-Match: ETAG"], 412),
        (["If-None-Match: ETAG", "Range: bytes=0-1"], 304),
        (["If-Match: ETAG", "Range: bytes=0-1"], 206),
        (["If-None-Match: ETAG", "Range: bytes=900-"], 304),
    ],
)
def test_preconditions(desk: Desk, lines: list[str], status: int) -> None:
    """DL-4: for GET and HEAD alike."""
    desk.put("a/x", b"content")
    plain = desk.get("/a/x")
    etag, modified = plain.fields["etag"], plain.fields["last-modified"]
    asked = [line.replace("ETAG", etag).replace("MODIFIED", modified) for line in lines]
    told = desk.get("/a/x", *asked)
    assert told.status == status
    if status == 304:
        assert (told.fields["etag"], told.fields["last-modified"], told.body) == (etag, modified, b"")
    if status == 412:
        assert told.reason == "precondition-failed"
    assert desk.ask("HEAD", "/a/x", *asked).status == (200 if status == 206 else status)


DIGITS = b"0123456789"


@pytest.mark.parametrize(
    ("asked", "content_range", "body"),
    [
        ("bytes=0-0", "bytes 0-0/10", b"0"),
        ("bytes=2-4", "bytes 2-4/10", b"234"),
        ("bytes=7-", "bytes 7-9/10", b"789"),
        ("bytes=-3", "bytes 7-9/10", b"789"),
        ("bytes=-99", "bytes 0-9/10", DIGITS),
        ("bytes=5-99", "bytes 5-9/10", b"56789"),
        ("BYTES = 2-4", None, DIGITS),
        ("Bytes=2-4", "bytes 2-4/10", b"234"),
        ("bytes=2-4, 900-", "bytes 2-4/10", b"234"),
        ("bytes=4-2", None, DIGITS),
        ("bytes=x-", None, DIGITS),
        ("lines=1-2", None, DIGITS),
        ("bytes=0-5,3-7", None, DIGITS),  # they overlap
        ("bytes=" + ",".join(["0-0"] * 17), None, DIGITS),  # they are too many
    ],
)
def test_ranges(desk: Desk, asked: str, content_range: Optional[str], body: bytes) -> None:
    """DL-5"""
    desk.put("a/x", DIGITS)
    told = desk.get("/a/x", f"Range: {asked}")
    assert (told.status, told.body) == (200 if content_range is None else 206, body)
    assert told.fields.get("content-range") == content_range
    head = desk.ask("HEAD", "/a/x", f"Range: {asked}")
    assert (head.status, "content-range" in head.fields) == (200, False)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=99-,50-60"])
def test_ranges_that_cannot_be(desk: Desk, asked: str) -> None:
    """DL-5: what `wget -c` of a complete file asks for."""
    desk.put("a/x", DIGITS)
    told = desk.get("/a/x", f"Range: {asked}")
    assert (told.status, told.reason, told.fields["content-range"]) == (416, "range-unsatisfiable", "bytes */10")


def test_several_ranges(desk: Desk) -> None:
    """DL-5: as multipart/byteranges, in the order that was asked for."""
    desk.put("a/x.txt", DIGITS)
    told = desk.get("/a/x.txt", "Range: bytes=7-8,0-2,-1")
    assert told.status == 206
    assert "content-range" not in told.fields
    message = message_from_bytes(f"Content-Type: {told.fields['content-type']}\r\n\r\n".encode() + told.body)
    assert message.get_content_type() == "multipart/byteranges"
    parts = message.get_payload()
    assert isinstance(parts, list)
    read = [(p["Content-Range"], p["Content-Type"], p.get_payload()) for p in parts if isinstance(p, Message)]
    assert read == [
        ("bytes 7-8/10", "text/plain", "78"),
        ("bytes 0-2/10", "text/plain", "012"),
        ("bytes 9-9/10", "text/plain", "9"),
    ]


def test_if_range(desk: Desk) -> None:
    """DL-5: a part of the old and a part of the new are never put together."""
    old = desk.upload("a", "x", DIGITS).fields["etag"]
    for validator, status in [(old, 206), (f"W/{old}", 200), ('"other"', 200), (LONG_AGO, 200)]:
        assert desk.get("/a/x", "Range: bytes=5-", f"If-Range: {validator}").status == status
    assert desk.upload("a", "x", DIGITS).status == 200
    assert desk.get("/a/x", "Range: bytes=5-", f"If-Range: {old}").status == 200


def test_an_empty_object(desk: Desk) -> None:
    """DL-2, DL-5"""
    desk.put("a/x", b"")
    assert (desk.get("/a/x").status, desk.get("/a/x").body) == (200, b"")
    assert desk.get("/a/x", "Range: bytes=0-").fields["content-range"] == "bytes */0"


def test_a_download_ends_with_the_bytes_it_began_with(server: Running) -> None:
    """DL-6: and two that have begun do not block each other, nor an upload."""
    old, new = os.urandom(BIG), b"new"
    with server.peer() as peer, server.peer() as slow, server.peer() as slower:
        assert peer.upload(token(), "a", "x", old).status == 200
        for reader in (slow, slower):
            reader.send("GET /a/x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert reader.take(1) == b"H"  # the head is out, most of the body cannot be
        assert peer.upload(token(), "a", "x", new).status == 200
        assert peer.get("/a/x").body == new
        for reader in (slower, slow):
            reader.buffer = b"H" + reader.buffer
            assert reader.reply().body == old
            assert reader.get("/a/x").body == new


def test_keep_alive_and_pipelining(server: Running) -> None:
    """DL-8: three requests in one write, answered in order; a refusal in between does not end the connection."""
    with server.peer() as peer:
        assert peer.upload(token(), "a", "x", b"content").status == 200
        requests = "".join(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n" for target in ("/a/x", "/missing", "/"))
        peer.send(requests)
        assert [peer.reply().status for _ in range(3)] == [200, 404, 200]
        assert peer.get("/a/x", "Connection: close").fields["connection"] == "close"
        assert peer.rest() == b""


def test_http_1_0(server: Running) -> None:
    """DL-8: as nginx speaks to a backend unless told otherwise."""
    with server.peer() as peer:
        assert peer.upload(token(), "a", "x", b"content").status == 200
    for target, body in [("/a/x", b"content"), ("/v1/list", b"a/x\n")]:
        with server.peer() as peer:
            reply = peer.send(f"GET {target} HTTP/1.0\r\n\r\n").reply()
            assert (reply.status, reply.body, reply.fields["connection"]) == (200, body, "close")
            assert "transfer-encoding" not in reply.fields
            assert peer.rest() == b""
    with server.peer() as peer:
        for _ in range(2):
            reply = peer.send("GET /a/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").reply()
            assert (reply.body, reply.fields["connection"]) == (b"content", "keep-alive")


# ---- LS: list


def test_the_list_is_sorted_by_bytes(desk: Desk) -> None:
    """LS-1: folders and files by their whole keys; the server's own files never appear."""
    keys = ["a", "a!/x", "a.b", "b/1", "b/10", "b/2", "b/2.x", "bä", "b€", "b\U0001f600", "~"]
    for key in keys:
        desk.put(key, b"content")
    told = desk.get("/v1/list")
    assert told.fields["content-type"] == "text/plain; charset=utf-8"
    assert told.text.splitlines() == sorted(keys, key=str.encode)
    assert told.body.endswith(b"\n")


def test_an_empty_list(desk: Desk) -> None:
    """LS-1"""
    assert (desk.get("/v1/list").status, desk.get("/v1/list").body) == (200, b"")


@pytest.mark.parametrize(
    ("query", "listed"),
    [
        ("prefix=a/", ["a/1", "a/2"]),
        ("prefix=/a/", ["a/1", "a/2"]),
        ("prefix=a", ["a b", "a+b", "a/1", "a/2"]),
        ("prefix=a%20b", ["a b"]),
        ("prefix=a+b", ["a+b"]),
        ("prefix=a/2", ["a/2"]),
        ("x=y&prefix=b", ["b/1"]),
        ("prefix=nothing", []),
        ("prefix=.metadata", []),
        ("prefix=", ["a b", "a+b", "a/1", "a/2", "b/1"]),
        ("other", ["a b", "a+b", "a/1", "a/2", "b/1"]),
    ],
)
def test_a_prefix_narrows_the_list(desk: Desk, query: str, listed: list[str]) -> None:
    """LS-1"""
    for key in ("a/1", "a/2", "a b", "a+b", "b/1"):
        desk.put(key, b"content")
    assert desk.get(f"/v1/list?{query}").text.splitlines() == listed


@pytest.mark.parametrize("query", ["prefix=%00", "prefix=%FF", "prefix=..", "prefix=../..", "prefix=/../etc"])
def test_a_prefix_that_no_key_has(desk: Desk, query: str) -> None:
    """LS-1: an empty list, and nothing from outside of the storage."""
    desk.put("a", b"content")
    told = desk.get(f"/v1/list?{query}")
    assert (told.status, told.body) == (200, b"")


def test_a_list_that_is_not_given(open_desk: OpenDesk) -> None:
    """LS-1"""
    desk = open_desk(list=kcistorage.ListOptions(enabled=False))
    desk.put("a", b"content")
    for method in ("GET", "HEAD"):
        told = desk.ask(method, "/v1/list")
        assert (told.status, told.reason) == (403, "list-disabled")


def test_a_long_list_is_streamed(server: Running) -> None:
    """LS-1: in chunks, and so without a Content-Length; to HTTP/1.0 until the connection ends."""
    keys = [f"{'folder' * 20}/{number:05}" for number in range(1500)]
    (server.storage / keys[0]).parent.mkdir()
    for key in keys:
        (server.storage / key).touch()
    with server.peer() as peer:
        reply = peer.get("/v1/list")
        assert reply.fields["transfer-encoding"] == "chunked"
        assert "content-length" not in reply.fields
        assert reply.text.splitlines() == keys
        assert peer.get("/").status == 200
        peer.send("GET /v1/list HTTP/1.0\r\n\r\n")
        assert peer.reply().text.splitlines() == keys


# ---- MT: metrics


def samples(reply: Reply) -> list[tuple[str, dict[str, str], float]]:
    found = [sample for family in text_string_to_metric_families(reply.text) for sample in family.samples]
    return [(sample.name, sample.labels, sample.value) for sample in found]


def one(reply: Reply, name: str, **labels: str) -> float:
    """The value of the one sample that has this name and these labels."""
    (value,) = [value for found in samples(reply) for value in found[2:] if found[:2] == (name, labels)]
    return value


def test_metrics(server: Running) -> None:
    """MT-1: Prometheus can read it, and it counts what happened."""
    with server.peer() as peer:
        assert peer.upload(token(), "a", "x", b"content").status == 200
        assert peer.get("/a/x").status == 200
        assert peer.get("/missing").status == 404
        server.wait_for_log("missing")
        reply = peer.get("/metrics")
    assert reply.fields["content-type"].startswith("text/plain; version=0.0.4")
    for name in ("storage_free_space", "storage_total_space"):
        (labels,) = {tuple(sorted(labels)) for found, labels, _ in samples(reply) if found == name}
        assert labels == ("diskname", "hostname", "mount_point")
    assert one(reply, "storage_files_cached", hostname=socket.gethostname()) == 0
    assert one(reply, "kcistorage_requests_total", method="GET", status="200") == 1
    assert one(reply, "kcistorage_requests_total", method="POST", status="200") == 1
    assert one(reply, "kcistorage_requests_total", method="GET", status="404") == 1
    assert one(reply, "kcistorage_errors_total", reason="not-found") == 1
    assert one(reply, "kcistorage_cache_total", state="cached") == 1
    assert one(reply, "kcistorage_connections") == 1
    assert one(reply, "kcistorage_build_info", version=kcistorage.__version__, python=platform.python_version()) == 1
    assert one(reply, "kcistorage_sent_bytes_total") == len(b"content" + b"Not Found: missing")


def test_waits_are_measured(start: Start) -> None:
    """MT-1: how long uploads wait for each other is what an operator of a farm looks for."""
    server = start(limits=IMPATIENT)
    with HalfUpload(server, "a", "x", OLD), server.peer() as peer:
        assert peer.get("/a/x").status == 408
        reply = peer.get("/metrics")
    assert one(reply, "kcistorage_lock_wait_seconds_count") == 1
    assert one(reply, "kcistorage_lock_wait_seconds_sum") >= IMPATIENT.lock_seconds


# ---- LG: log


def test_a_line_for_each_request(server: Running) -> None:
    """LG-1"""
    with server.peer() as peer:
        assert peer.upload(token(), "a", "x", b"content", "User-Agent: uploader/1").status == 200
        assert peer.get("/a//x?q", "User-Agent: reader/2").status == 200
        assert peer.get("/missing").status == 404
        assert peer.ask("BREW", "/pot").status == 501
        assert peer.send("nonsense\r\n\r\n").reply().status == 400
    server.wait_for_log("head-malformed")
    lines = [values(line) for line in server.log() if "event=access" in line]
    assert [(line["status"], line["method"], line["target"], line["path"]) for line in lines] == [
        ("200", "POST", "/upload", "a/x"),
        ("200", "GET", "/a//x?q", "a/x"),
        ("404", "GET", "/missing", "missing"),
        ("501", "BREW", "/pot", ""),
        ("400", "-", "-", ""),
    ]
    assert all(line["ip"] == "127.0.0.1" for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"]) for line in lines)
    assert [line["bytes"] for line in lines[:2]] == ["0", "7"]
    assert [line.get("owner") for line in lines] == [EMAIL, None, None, None, None]
    assert [line.get("ua") for line in lines] == [None, "reader/2", None, None, None]
    assert [line.get("state") for line in lines] == [None, "cached", None, None, None]
    assert [line.get("reason", "") for line in lines[2:]] == ["not-found", "method-unknown", "head-malformed"]


def test_nobody_writes_lines_of_their_own(server: Running) -> None:
    """LG-1: quotes, line ends, escapes and foreign letters stay inside their value."""
    agent = 'x" status=200 event="y\\" \x1b \u2028 \x85 ü'
    target = '/a"b%0Aevent=forged%22\\"'
    with server.peer() as peer:
        assert peer.get(target, f"User-Agent: {agent}".replace("\x1b", "")).status == 404
    line = server.wait_for_log("event=access")
    assert line.isascii()
    assert len([line for line in server.log() if "forged" in line]) == 1
    read = values(line)
    assert read["target"] == target
    assert read["ua"].encode("latin-1").decode() == agent.replace("\x1b", "")
    assert read["status"] == "404"


def test_no_token_and_no_secret_is_logged(server: Running) -> None:
    """LG-1: wherever a client put it."""
    secret_words = [token(), token("other@example.org"), token(exp=1)]
    with server.peer() as peer:
        for word in secret_words:
            peer.get("/v1/checkauth", f"Authorization: Bearer {word}", f"User-Agent: agent {word}")
            peer.get(f"/a/x?token={word}")
            peer.get(f"/{word}")
            peer.upload(word, "a", word, b"content")
            peer.ask("POST", f"/upload?jwt={word}", FORM_TYPE, body=GOOD)
        peer.get("/last")
    server.wait_for_log("/last")
    log = "\n".join(server.log())
    for word in secret_words:
        for piece in word.split("."):
            assert piece not in log
    assert SECRET not in log


def test_a_client_that_vanishes_is_logged_without_a_trace(server: Running) -> None:
    """LG-1: as 499, and no traceback is worth a line."""
    with HalfUpload(server, "a", "x", OLD) as half:
        half.vanish()
        line = values(server.wait_for_log("event=access"))
    assert (line["status"], line["reason"], line["path"]) == ("499", "client-gone", "a/x")
    assert not any("trace" in line for line in server.log())
