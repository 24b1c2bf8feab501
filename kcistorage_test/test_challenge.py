"""The browser download challenge: GA-4. In a real browser it is in test_browser.py."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from html.parser import HTMLParser
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Optional, Union

import jwt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import kcistorage
from kcistorage_parts.challenge import (
    CHALLENGE_HEADERS,
    CHALLENGE_PATH,
    MOST_COOKIES,
    POLICY,
    SCRIPT,
    Challenge,
    network,
)
from kcistorage_parts.settings import ConfigError
from kcistorage_test.conftest import Running, Start, token
from kcistorage_test.talk import Peer, Reply

PROPERTY = settings(deadline=None, max_examples=200)
SECRET = "the challenge's secret of 32 bytes or more: of 64, so that HS512 would take it as well"
NOW = 1_800_000_000.5
HERE = "192.0.2.7"
CHALLENGE = Challenge(["Mozilla", "opera/"], SECRET)
NAME = "__Host-kci-download"


def value(challenge: Challenge = CHALLENGE, address: str = HERE, now: float = NOW) -> str:
    """The token in a cookie that was given out."""
    return challenge.cookie(address, now).partition(";")[0].partition("=")[2]


def passed(text: str, address: str = HERE, now: float = NOW, challenge: Challenge = CHALLENGE) -> bool:
    """Whether this token opens the download."""
    return challenge.passed(f"{challenge.cookie_name}={text}", address, now)


# ---- Whom it concerns


@pytest.mark.parametrize(
    ("agent", "concerned"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64)", True),
        ("mozilla/5.0", True),
        ("like MOZILLA", True),
        ("Opera/9.80", True),
        ("opera", False),
        ("curl/8.5.0", False),
        ("", False),
    ],
)
def test_agents_by_a_part_of_their_name_in_any_case(agent: str, concerned: bool) -> None:
    assert CHALLENGE.concerns(agent) is concerned


@PROPERTY
@given(st.text(max_size=20), st.sampled_from(["Mozilla", "mOZILLA", "OPERA/", "opera/"]), st.text(max_size=20))
def test_what_stands_around_the_name_changes_nothing(before: str, name: str, behind: str) -> None:
    """Invariant: an agent that holds a word is concerned."""
    assert CHALLENGE.concerns(before + name + behind)


# ---- The cookie


def test_the_cookie_to_the_letter() -> None:
    claims = jwt.decode(value(), SECRET, ["HS256"], options={"verify_exp": False})
    assert claims == {"exp": int(NOW) + 600, "net": "192.0.2.0/24"}
    assert jwt.get_unverified_header(value())["alg"] == "HS256"
    assert CHALLENGE.cookie(HERE, NOW) == f"{NAME}={value()}; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure"


def test_the_cookie_of_a_site_without_https() -> None:
    """Without Secure a browser would drop a `__Host-` cookie (RFC 6265bis 4.1.3.2)."""
    plain = Challenge(["Mozilla"], SECRET, ttl_seconds=30, secure=False)
    assert plain.cookie(HERE, NOW) == f"kci-download={value(plain)}; Path=/; Max-Age=30; HttpOnly; SameSite=Lax"
    assert plain.passed(f"kci-download={value(plain)}", HERE, NOW)
    assert not plain.passed(f"{NAME}={value(plain)}", HERE, NOW)


def test_the_cookie_ends() -> None:
    assert passed(value(), now=NOW + 599)
    assert not passed(value(), now=NOW + 600)
    assert not passed(value(), now=1e300)


@pytest.mark.parametrize(
    ("given_to", "used_by", "good"),
    [
        ("192.0.2.7", "192.0.2.255", True),
        ("192.0.2.7", "192.0.3.7", False),
        ("2001:db8:0:1::7", "2001:db8:0:1:ffff::8", True),
        ("2001:db8:0:1::7", "2001:db8:0:2::7", False),
        ("::ffff:192.0.2.7", "192.0.2.8", True),  # the same client, by a dual-stack socket
        ("::ffff:192.0.2.7", "::ffff:192.0.3.7", False),  # and not all of IPv4 in ::/64
        ("fe80::1%eth0", "fe80::2%eth1", True),  # a zone is a name of this host
        ("fe80::1%eth0", "fe80::2", True),
        ("192.0.2.7", "", False),
        ("", "192.0.2.7", False),
        ("", "a socket's path", True),  # two clients of whom nothing is known
        ("0.0.0.0", "", False),
    ],
)
def test_the_cookie_stays_in_its_network(given_to: str, used_by: str, good: bool) -> None:
    assert passed(value(address=given_to), address=used_by) is good


ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6)


def written(address: Union[IPv4Address, IPv6Address]) -> Union[IPv4Address, IPv6Address]:
    return getattr(address, "ipv4_mapped", None) or address


@PROPERTY
@given(ADDRESSES, ADDRESSES, st.integers(0, 32), st.integers(0, 128))
@example(ip_address("192.0.2.1"), ip_address("192.0.2.2"), 31, 64)
@example(ip_address("::ffff:192.0.2.1"), ip_address("192.0.2.1"), 32, 0)
def test_networks_are_those_of_the_standard_library(
    one: Union[IPv4Address, IPv6Address], other: Union[IPv4Address, IPv6Address], ipv4: int, ipv6: int
) -> None:
    """Invariant: two addresses have one network just when it holds both."""
    first, second = written(one), written(other)
    around = ip_network(f"{first}/{ipv4 if first.version == 4 else ipv6}", strict=False)
    assert network(str(one), ipv4, ipv6) == str(around)
    assert (network(str(other), ipv4, ipv6) == str(around)) is (second in around)


def test_a_zone_is_no_part_of_a_network() -> None:
    assert network("fe80::1%eth0", 24, 128) == network("fe80::1", 24, 128) == "fe80::1/128"


@PROPERTY
@given(st.text(max_size=50))
@example("1.2.3.4/8")
@example("%")
@example("0x7f000001")
def test_what_is_no_address_has_no_network(text: str) -> None:
    """Invariant: either "" or a network, and never an exception."""
    found = network(text, 24, 64)
    assert found == "" or ip_network(found).prefixlen in (24, 64)


# ---- The Cookie field

OTHERS = st.lists(
    st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}=[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{0,30}", fullmatch=True),
    max_size=6,
)


@PROPERTY
@given(OTHERS, OTHERS, st.sampled_from(["; ", ";", " ; ", ", ", ";\t"]))
def test_the_cookie_is_found_among_others(before: list[str], behind: list[str], between: str) -> None:
    """Invariant: other cookies change nothing, however they are joined (RFC 6265 5.4; RFC 9110 5.3)."""
    assert CHALLENGE.passed(between.join([*before, f"{NAME}={value()}", *behind]), HERE, NOW)


@pytest.mark.parametrize(
    "field",
    [
        f"x{NAME}={{}}",
        f"{NAME}x={{}}",
        f"a={NAME}={{}}",
        f"{NAME} ={{}}",
        f"{NAME.lower()}={{}}",
        "kci-download={}",
        f"{NAME}={{}}x",
        f'{NAME}="{{}}"',
        "{}",
    ],
)
def test_cookies_of_other_names(field: str) -> None:
    """Names are compared to the letter (RFC 6265bis 5.7); a value that we did not set is not read kindly."""
    assert CHALLENGE.passed(f"{NAME}={value()}", HERE, NOW)
    assert not CHALLENGE.passed(field.format(value()), HERE, NOW)


def test_a_cookie_of_our_name_by_another_host() -> None:
    """Which comes first is not to be relied on (RFC 6265 4.2.2): none may lock a reader out."""
    planted = f"{NAME}=planted; "
    assert CHALLENGE.passed(f"{planted}{NAME}={value()}", HERE, NOW)
    assert CHALLENGE.passed(planted * (MOST_COOKIES - 1) + f"{NAME}={value()}", HERE, NOW)
    assert not CHALLENGE.passed(planted * MOST_COOKIES + f"{NAME}={value()}", HERE, NOW), "a bound for the work"


# ---- Forgery


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unsigned(header: object, claims: object) -> str:
    return f"{segment(json.dumps(header).encode())}.{segment(json.dumps(claims).encode())}."


GOOD: dict[str, Any] = {"exp": int(NOW) + 600, "net": "192.0.2.0/24"}


def forgeries() -> dict[str, str]:
    head, claims, signature = value().split(".")
    return {
        "other secret": jwt.encode(GOOD, "another secret of 32 bytes or more", "HS256"),
        "other algorithm": jwt.encode(GOOD, SECRET, "HS512"),
        "none": unsigned({"alg": "none", "typ": "JWT"}, GOOD),
        "none, with our signature": unsigned({"alg": "none"}, GOOD) + signature,
        "HS256 without a signature": unsigned({"alg": "HS256"}, GOOD),
        "no time": jwt.encode({"net": GOOD["net"]}, SECRET),
        "null time": jwt.encode({**GOOD, "exp": None}, SECRET),
        "time in words": jwt.encode({**GOOD, "exp": "2100-01-01"}, SECRET),
        "time is no number": jwt.encode({**GOOD, "exp": [9e9]}, SECRET),
        "time is NaN": jwt.encode({**GOOD, "exp": float("nan")}, SECRET),
        "no network": jwt.encode({"exp": GOOD["exp"]}, SECRET),
        "other network": jwt.encode({**GOOD, "net": "0.0.0.0/0"}, SECRET),
        "token of a user": jwt.encode({"email": "lab@example.org", "exp": GOOD["exp"]}, SECRET),
        "critical extension": jwt.encode(GOOD, SECRET, headers={"crit": ["x"], "x": 1}),
        "not an object": f"{head}.{segment(b'[]')}.{signature}",
        "claims of another": f"{head}.{segment(json.dumps({**GOOD, 'exp': 9_000_000_000}).encode())}.{signature}",
        "cut": value()[:-2],
        "two parts": f"{head}.{claims}",
        "four parts": f"{value()}.{signature}",
        "nested": segment(b"[" * 300),
        "deeply nested": f"{segment(b'[' * 30_000)}.{claims}.{signature}",
        "long": jwt.encode({**GOOD, "x": "x" * 600}, SECRET),
        "empty": "",
        "dots": "..",
    }


@pytest.mark.parametrize("kind", forgeries())
def test_forgeries(kind: str) -> None:
    assert passed(value())
    assert not passed(forgeries()[kind])


@PROPERTY
@given(st.data())
def test_a_changed_cookie_is_worth_nothing(data: st.DataObject) -> None:
    """Invariant: no letter may change, but for spare bits of the last one (RFC 4648 3.5)."""
    text = value()
    at = data.draw(st.integers(0, len(text) - 2))
    letter = data.draw(st.sampled_from("ABCabc019-_.").filter(lambda one: one != text[at]))
    assert not passed(text[:at] + letter + text[at + 1 :])


@PROPERTY
@given(st.text(max_size=200) | st.from_regex(r"([A-Za-z0-9_-]{0,40}\.){0,4}[A-Za-z0-9_-]{0,40}", fullmatch=True))
@example("\ud800")
@example("eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2V9..")
def test_garbage_does_not_pass(text: str) -> None:
    """Invariant: a field that we had no part in gets the page, and never an exception."""
    assert not CHALLENGE.passed(text, HERE, NOW)
    assert not passed(text)


# ---- The page


class Reading(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Optional[str]]]] = []
        self.inside: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(page.decode("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside[self._open[-1]] = self.inside.get(self._open[-1], "") + data
        while self._open and self._open[-1] in ("meta", "link"):
            self._open.pop()

    def all(self, tag: str) -> list[dict[str, Optional[str]]]:
        return [attributes for name, attributes in self.tags if name == tag]


PAGE = Reading(CHALLENGE.page())
FALLBACK = Challenge(["Mozilla"], SECRET, fallback=True)


def test_the_policy_allows_just_the_script_and_the_style_of_the_page() -> None:
    """CSP 3 2.3.1: the hash is one of the very text between the tags. CR would be read as LF, and hashed so."""
    for challenge in (CHALLENGE, FALLBACK):
        assert b"\r" not in challenge.page()
        assert len(Reading(challenge.page()).all("script")) == len(Reading(challenge.page()).all("style")) == 1
        for tag in ("script", "style"):
            digest = hashlib.sha256(Reading(challenge.page()).inside[tag].encode()).digest()
            assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}';" in POLICY
    directives = dict(part.strip().split(" ", 1) for part in POLICY.split(";"))
    shut = {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert {name for name, what in directives.items() if what == "'none'"} == shut
    assert set(directives) - shut == {"script-src", "style-src", "connect-src", "img-src"}
    assert "unsafe" not in POLICY


def test_the_page_leads_nowhere_else() -> None:
    for challenge in (CHALLENGE, FALLBACK):
        page = Reading(challenge.page())
        attributes = [(name, text) for _, told in page.tags for name, text in told.items()]
        assert {text for name, text in attributes if name in ("href", "src")} <= {"data:,", "", "?challenge_fallback=1"}
        assert not [name for name, _ in attributes if name == "style" or name.startswith("on")]
        assert "//" not in challenge.page().decode()
        assert page.all("link") == [{"rel": "icon", "href": "data:,"}], "else browsers ask for /favicon.ico"
    assert b"challenge_fallback" not in CHALLENGE.page()
    assert re.findall(r'fetch\("([^"]*)"', SCRIPT) == [CHALLENGE_PATH]


def test_the_page_is_for_everybody() -> None:
    """WCAG 2.2: 3.1.1 language, 2.4.2 title, 1.3.1 heading and landmark, 4.1.3 status, 1.4.10 a narrow screen."""
    assert PAGE.all("html") == [{"lang": "en"}]
    assert PAGE.inside["title"] == "Please wait"
    assert len(PAGE.all("h1")) == len(PAGE.all("main")) == 1
    assert {"id": "status", "role": "status"} in PAGE.all("p")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in PAGE.all("meta")
    assert "color-scheme: light dark" in PAGE.inside["style"]
    assert len(PAGE.all("noscript")) == 1
    ids = {attributes["id"] for _, attributes in PAGE.tags if "id" in attributes}
    assert set(re.findall(r'getElementById\("([^"]*)"\)', SCRIPT)) == ids


# ---- Through the server

BROWSER, CURL = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101", "User-Agent: curl/8.5.0"
FILE = b"a kernel, as it were" * 100


def site(start: Start, **options: Any) -> Running:
    """A server with a file, which is at hand from its second download on."""
    told = {"user_agents": ("Mozilla",), "secret": SECRET, **options}
    server = start(download_challenge=kcistorage.DownloadChallenge(**told))
    with server.peer() as peer:
        assert peer.upload(token(), "a", "x.bin", FILE).status == 200
        assert [peer.get("/a/x.bin", CURL).body for _ in range(2)] == [FILE, FILE]
    return server


def is_page(reply: Reply) -> bool:
    return (reply.status, reply.fields.get("content-type")) == (200, "text/html; charset=utf-8")


def granted(peer: Peer, *fields: str) -> str:
    """A Cookie line, from what the script's POST gets."""
    reply = peer.ask("POST", CHALLENGE_PATH, BROWSER, *fields)
    assert reply.status == 204
    return "Cookie: " + reply.fields["set-cookie"].partition(";")[0]


def test_page_cookie_file(start: Start) -> None:
    server = site(start)
    with server.peer() as peer:
        page = peer.get("/a/x.bin", BROWSER)
        assert page.body == CHALLENGE.page()
        assert set(CHALLENGE_HEADERS) <= {(name, page.fields.get(name.lower())) for name, _ in CHALLENGE_HEADERS}
        assert page.fields["cache-control"] == "no-store, private"
        assert page.fields["referrer-policy"] == "no-referrer"
        assert not {"etag", "last-modified", "accept-ranges", "content-disposition"} & set(page.fields)
        cookie = granted(peer)
        file = peer.get("/a/x.bin", BROWSER, cookie)
        assert (file.status, file.body) == (200, FILE)
        assert file.fields["content-disposition"] == 'attachment; filename="x.bin"'
        assert is_page(peer.get("/a/x.bin", BROWSER)), "this connection is not the cookie"


def test_the_post_to_the_letter(start: Start) -> None:
    server = site(start)
    with server.peer() as peer:
        began = int(time.time())
        reply = peer.ask("POST", CHALLENGE_PATH, BROWSER)
        assert (reply.status, reply.body) == (204, b"")
        shape = r"__Host-kci-download=([\w-]+\.[\w-]+\.[\w-]+); Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure"
        match = re.fullmatch(shape, reply.fields["set-cookie"])
        assert match is not None
        claims = jwt.decode(match[1], SECRET, ["HS256"])
        assert claims["net"] == "127.0.0.0/24"
        assert began + 600 <= claims["exp"] <= int(time.time()) + 600
        assert reply.fields["cache-control"] == "no-store, private"


def test_the_post_without_https(start: Start) -> None:
    server = site(start, secure_cookie=False, cookie_ttl_seconds=30)
    with server.peer() as peer:
        told = peer.ask("POST", CHALLENGE_PATH, BROWSER).fields["set-cookie"]
        assert re.fullmatch(r"kci-download=[\w.-]+; Path=/; Max-Age=30; HttpOnly; SameSite=Lax", told)
        assert peer.get("/a/x.bin", BROWSER, "Cookie: " + told.partition(";")[0]).body == FILE


@pytest.mark.parametrize("agent", [[CURL], [], ["User-Agent:"]], ids=["curl", "none", "empty"])
def test_other_agents_are_not_asked(start: Start, agent: list[str]) -> None:
    server = site(start)
    with server.peer() as peer:
        assert peer.get("/a/x.bin", *agent).body == FILE
        reply = peer.ask("POST", CHALLENGE_PATH, *agent)
        assert (reply.status, reply.text) == (403, "Forbidden: this client needs no challenge")
        assert "set-cookie" not in reply.fields


def test_head_is_not_asked(start: Start) -> None:
    """GA-4 speaks of GET: a HEAD gives away nothing but that there is a file."""
    server = site(start)
    with server.peer() as peer:
        reply = peer.ask("HEAD", "/a/x.bin", BROWSER)
        assert (reply.status, reply.fields["content-length"]) == (200, str(len(FILE)))
        assert peer.ask("HEAD", "/a/none", BROWSER).status == 404


def test_only_downloads_are_asked(start: Start) -> None:
    server = site(start)
    with server.peer() as peer:
        assert peer.get("/", BROWSER).text.startswith("KernelCI")
        assert peer.get("/v1/list", BROWSER).text == "a/x.bin\n"
        assert peer.get("/v1/checkauth", BROWSER).status == 401
        assert peer.upload(token(), "a", "y.bin", FILE, BROWSER).status == 200
        refused = peer.get(CHALLENGE_PATH, BROWSER)
        assert (refused.status, refused.fields["allow"]) == (405, "POST")


def test_a_missing_file_is_missing_behind_the_page(start: Start) -> None:
    """The page comes before the storage is asked: what is turned away costs nothing."""
    server = site(start)
    with server.peer() as peer:
        assert is_page(peer.get("/a/none", BROWSER))
        assert peer.get("/a/none", BROWSER, granted(peer)).status == 404


def test_off(start: Start, server: Running) -> None:
    with server.peer() as peer:
        assert peer.upload(token(), "a", "x.bin", FILE).status == 200
        assert peer.get("/a/x.bin", BROWSER).body == FILE
        assert peer.ask("POST", CHALLENGE_PATH, BROWSER).status == 404
        assert "x-accel-limit-rate" not in peer.get("/a/x.bin?challenge_fallback=1", BROWSER).fields


def test_an_expired_cookie_and_those_of_others(start: Start) -> None:
    server = site(start)
    cookies = {
        "good": value(address="127.0.0.1", now=time.time() - 590),
        "expired": value(address="127.0.0.1", now=time.time() - 601),
        "elsewhere": value(address="192.0.2.7", now=time.time()),
        "forged": value(Challenge(["Mozilla"], "another secret of 32 bytes or more"), "127.0.0.1", time.time()),
        "garbage": "\xff" * 100,
        "deep": segment(b"[" * 40_000),
    }
    with server.peer() as peer:
        replies = {kind: peer.get("/a/x.bin", BROWSER, f"Cookie: {NAME}={text}") for kind, text in cookies.items()}
    assert [kind for kind, reply in replies.items() if reply.body == FILE] == ["good"]
    assert [kind for kind, reply in replies.items() if not is_page(reply)] == ["good"]


@pytest.mark.parametrize(
    ("given_to", "used_by", "good"),
    [
        ("203.0.113.7", "203.0.113.99", True),
        ("203.0.113.7", "203.0.114.7", False),
        ("::ffff:203.0.113.7", "203.0.113.99", True),
        ("2001:db8:1:2::7", "2001:db8:1:2:3::9", True),
        ("2001:db8:1:2::7", "2001:db8:1:3::7", False),
    ],
)
def test_behind_a_proxy_the_network_is_the_clients(start: Start, given_to: str, used_by: str, good: bool) -> None:
    """GA-3"""
    server = site(start)
    with server.peer() as peer:
        cookie = granted(peer, f"X-Forwarded-For: 198.51.100.1, {given_to}")
        assert (peer.get("/a/x.bin", BROWSER, cookie, f"X-Forwarded-For: {used_by}").body == FILE) is good
        assert is_page(peer.get("/a/x.bin", BROWSER, cookie)), "the proxy itself is another client"


def test_what_a_stranger_forwards_is_not_believed(start: Start) -> None:
    """GA-3: a peer that is no trusted proxy cannot choose its network."""
    challenge = kcistorage.DownloadChallenge(("Mozilla",), SECRET)
    server = start(download_challenge=challenge, trusted_proxies=())
    with server.peer() as peer:
        assert peer.upload(token(), "a", "x.bin", FILE).status == 200
        cookie = granted(peer, "X-Forwarded-For: 203.0.113.7")
        assert peer.get("/a/x.bin", BROWSER, cookie).body == FILE


def test_prefix_lengths(start: Start) -> None:
    server = site(start, ipv4_prefix_length=32, ipv6_prefix_length=48)
    with server.peer() as peer:
        one, other = "X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 203.0.113.8"
        cookie = granted(peer, one)
        assert peer.get("/a/x.bin", BROWSER, cookie, one).body == FILE
        assert is_page(peer.get("/a/x.bin", BROWSER, cookie, other))
        cookie = granted(peer, "X-Forwarded-For: 2001:db8:1:2::7")
        assert peer.get("/a/x.bin", BROWSER, cookie, "X-Forwarded-For: 2001:db8:1:3::7").body == FILE


def test_parts_and_conditions(start: Start) -> None:
    """DL-4 to DL-8 with a cookie as for everybody; without one no part of the file, and no word on its version."""
    server = site(start)
    with server.peer() as peer:
        cookie = granted(peer)
        whole = peer.get("/a/x.bin", BROWSER, cookie)
        conditions = ("Range: bytes=-5", f"If-None-Match: {whole.fields['etag']}", 'If-Match: "other"')
        replies = [peer.get("/a/x.bin", BROWSER, cookie, condition) for condition in conditions]
        assert [reply.status for reply in replies] == [206, 304, 412]
        assert replies[0].body == FILE[-5:]
        assert all(is_page(peer.get("/a/x.bin", BROWSER, condition)) for condition in conditions)


def test_the_slow_way_where_there_is_one(start: Start) -> None:
    server = site(start, fallback_bytes_per_second=50_000)
    with server.peer() as peer:
        assert b'href="?challenge_fallback=1"' in peer.get("/a/x.bin", BROWSER).body
        slow = peer.get("/a/x.bin?a=b&challenge_fallback=1", BROWSER)
        assert (slow.body, slow.fields["x-accel-limit-rate"]) == (FILE, "50000")
        part = peer.get("/a/x.bin?challenge_fallback=1", BROWSER, "Range: bytes=0-4")
        assert (part.status, part.body, part.fields["x-accel-limit-rate"]) == (206, FILE[:5], "50000")
        assert peer.get("/a/none?challenge_fallback=1", BROWSER).status == 404
        for query in ("challenge_fallback=0", "challenge_fallback", "xchallenge_fallback=1", "challenge_fallback=11"):
            assert is_page(peer.get(f"/a/x.bin?{query}", BROWSER))
        for fast in ([CURL], [BROWSER, granted(peer)]):
            assert "x-accel-limit-rate" not in peer.get("/a/x.bin?challenge_fallback=1", *fast).fields


def test_no_slow_way_unless_configured(start: Start) -> None:
    server = site(start)
    with server.peer() as peer:
        reply = peer.get("/a/x.bin?challenge_fallback=1", BROWSER)
        assert is_page(reply)
        assert b"challenge_fallback" not in reply.body


def test_the_cookie_is_no_token_of_a_user(start: Start) -> None:
    """AU-3: not even where the two secrets are one."""
    challenge = kcistorage.DownloadChallenge(("Mozilla",), SECRET)
    server = start(download_challenge=challenge, jwt_secret=SECRET)
    with server.peer() as peer:
        text = granted(peer).partition("=")[2]
        assert peer.get("/v1/checkauth", f"Authorization: Bearer {text}").status == 401
        assert peer.get("/v1/checkauth", f"Authorization: Bearer {token(secret=SECRET)}").status == 200


def test_no_secret_is_logged(start: Start) -> None:
    server = site(start)
    with server.peer() as peer:
        cookie = granted(peer)
        assert peer.get("/a/x.bin", BROWSER, cookie).body == FILE
        assert peer.get("/a/x.bin?last", BROWSER, cookie + "x").status == 200
    server.wait_for_log("x.bin?last")
    text = "\n".join(server.log())
    assert CHALLENGE_PATH in text
    assert SECRET not in text
    assert cookie.rpartition(".")[2] not in text


# ---- Options

CONFIG = 'driver = "local"\njwt_secret = "a secret of thirty-two bytes, or more"\n[download_challenge]\n'
AGENTS, KEY = 'user_agents = ["Mozilla"]\n', f'secret = "{SECRET}"\n'


def loaded(folder: Path, text: str) -> kcistorage.Config:
    path = folder / "config.toml"
    path.write_text(CONFIG + text, encoding="utf-8")
    return kcistorage.load_config(str(path))


WRONG = [
    ('user_agents = [""]\n' + KEY, "user_agents"),
    ('user_agents = ["Mozilla", " "]\n' + KEY, "user_agents"),
    ('user_agents = "Mozilla"\n' + KEY, "user_agents"),
    ("user_agents = [1]\n" + KEY, "user_agents"),
    (AGENTS, "secret"),
    (AGENTS + f'secret = "{SECRET[:31]}"', "secret"),
    (AGENTS + f'secret = "{"é" * 16}"', "secret"),
    (AGENTS + KEY + "cookie_ttl_seconds = 29", "cookie_ttl_seconds"),
    (AGENTS + KEY + "cookie_ttl_seconds = 86401", "cookie_ttl_seconds"),
    (AGENTS + KEY + "cookie_ttl_seconds = 600.5", "cookie_ttl_seconds"),
    (AGENTS + KEY + "cookie_ttl_seconds = true", "cookie_ttl_seconds"),
    (AGENTS + KEY + "ipv4_prefix_length = -1", "ipv4_prefix_length"),
    (AGENTS + KEY + "ipv4_prefix_length = 33", "ipv4_prefix_length"),
    (AGENTS + KEY + "ipv6_prefix_length = -1", "ipv6_prefix_length"),
    (AGENTS + KEY + "ipv6_prefix_length = 129", "ipv6_prefix_length"),
    (AGENTS + KEY + "fallback_bytes_per_second = -1", "fallback_bytes_per_second"),
    (AGENTS + KEY + 'secure_cookie = "yes"', "secure_cookie"),
    (AGENTS + KEY + "ttl = 600", "ttl"),
]


@pytest.mark.parametrize(("text", "key"), WRONG, ids=[key for _, key in WRONG])
def test_wrong_options_stop_the_start(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    assert f"download_challenge.{key}" in str(refused.value)
    assert "secret of" not in str(refused.value).replace(str(tmp_path), ""), "no secret is told"


def test_the_least_and_the_most(tmp_path: Path) -> None:
    least = "cookie_ttl_seconds = 30\nipv4_prefix_length = 0\nipv6_prefix_length = 0\nfallback_bytes_per_second = 0"
    most = "cookie_ttl_seconds = 86400\nipv4_prefix_length = 32\nipv6_prefix_length = 128\nsecure_cookie = false"
    for numbers in (least, most):
        loaded(tmp_path, AGENTS + f'secret = "{SECRET[:32]}"\n' + numbers)


def test_off_needs_no_secret(tmp_path: Path) -> None:
    assert loaded(tmp_path, "user_agents = []").download_challenge == kcistorage.DownloadChallenge()
