"""GA-4 in a real browser: the file arrives, the page is safe and can be read by everybody, and nothing goes round.

Where a test needs the page to stand still, the browser holds back the request of the page's script.
"""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

import pytest

import kcistorage
from kcistorage_parts.challenge import CHALLENGE_PATH
from kcistorage_test.browser import ELSEWHERE, Chromium, Tab
from kcistorage_test.conftest import Running, Start, token
from kcistorage_test.parts_at_hand import needs

FILE = os.urandom(1 << 20)
NAME = "größe 1.bin"
TARGET = "/a/gr%C3%B6%C3%9Fe%201.bin"
SECRET = "the challenge's secret of 32 bytes, or more"

WAITING = "Please wait. The download starts by itself."
STARTS = "The download starts. You may close this page."
NOT_KEPT = "No download: this browser did not keep the cookie that it needs, or its network address changed."
STATUS = "document.getElementById('status')?.textContent"
FAILED = f"{STATUS}?.startsWith('No') && {STATUS}"

pytestmark = pytest.mark.timeout(60)


class Site(NamedTuple):
    """A server whose downloads Chromium is challenged for."""

    server: Running
    url: str  # without a / at the end

    @property
    def file(self) -> str:
        return self.url + TARGET

    def asked(self, count: int) -> list[str]:
        """Method, target and status of the requests after the upload, sorted, when there are this many or more.

        A line is written after its answer was sent, and so perhaps after that of the next request.
        """
        line = re.compile(r'event=access .* status=(\d+) .* method=(\w+) target="([^"]*)"')
        deadline = time.monotonic() + 10
        while True:
            found = [match for text in self.server.log() if (match := line.search(text))][1:]
            if len(found) >= count:
                return sorted(f"{match[2]} {match[3]} {match[1]}" for match in found)
            assert time.monotonic() < deadline, found
            threading.Event().wait(0.01)


def certified(folder: Path) -> ssl.SSLContext:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    make = [needs("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*make, "-days", "2", *names, *files], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def site(start: Start, host: str = "127.0.0.1", tls: Optional[ssl.SSLContext] = None, secure: bool = False) -> Site:
    challenge = kcistorage.DownloadChallenge(
        ("HeadlessChrome/",), SECRET, fallback_bytes_per_second=100_000, secure_cookie=secure
    )
    server = start(tls=tls, download_challenge=challenge)
    with server.peer() as peer:
        if tls is not None:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            peer.secure(context)
        assert peer.upload(token(), "a", NAME, FILE).status == 200
    server.wait_for_log("/upload")
    return Site(server, f"http{'s' if tls else ''}://{host}:{server.port}")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    browser = Chromium()
    yield browser
    browser.close()


def new_tab(chromium: Chromium, tmp_path: Path) -> Iterator[Tab]:
    (tmp_path / "downloads").mkdir()
    tab = Tab(chromium, tmp_path / "downloads")
    yield tab
    tab.close()


@pytest.fixture
def tab(chromium: Chromium, tmp_path: Path) -> Iterator[Tab]:
    yield from new_tab(chromium, tmp_path)


# ---- The download


GET, POST = f"GET {TARGET} 200", f"POST {CHALLENGE_PATH} 204"
DOWNLOAD = [GET, GET, POST]  # the page, the cookie, the file: sorted


@pytest.mark.parametrize("kind", ["http", "http-host-prefix", "https"])
def test_the_file_arrives(start: Start, tab: Tab, tmp_path: Path, kind: str) -> None:
    """Byte for byte and under its name, with three requests and none to anywhere else.

    Measured: Chromium takes a Secure cookie from http://localhost and http://127.0.0.1, which it trusts.
    """
    tls = certified(tmp_path) if kind == "https" else None
    here = site(start, "localhost", tls, secure=kind != "http")
    tab.call("Security.setIgnoreCertificateErrors", ignore=True)
    tab.open(here.file)
    saved = tab.downloaded()
    assert saved.name == NAME
    assert saved.read_bytes() == FILE
    assert here.asked(3) == DOWNLOAD
    assert tab.requests(3) == [f"GET {here.file}", f"POST {here.url}{CHALLENGE_PATH}", f"GET {here.file}"]
    assert tab.complaints() == []
    assert tab.until(STATUS) == STARTS


def test_the_cookie_is_as_the_browser_was_told(start: Start, tab: Tab) -> None:
    here = site(start, "localhost", secure=True)
    tab.open(here.file)
    tab.downloaded()
    (cookie,) = tab.cookies()
    assert (cookie["name"], cookie["domain"], cookie["path"]) == ("__Host-kci-download", "localhost", "/")
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Lax", True)
    assert 0 < cookie["expires"] - time.time() <= 600


def test_the_cookie_is_good_for_the_next_file(start: Start, tab: Tab) -> None:
    here = site(start)
    tab.open(here.file)
    tab.downloaded()
    tab.open(here.file + "?again")
    assert tab.downloaded(2).read_bytes() == FILE
    assert here.asked(4) == sorted([*DOWNLOAD, f"GET {TARGET}?again 200"])


@pytest.mark.parametrize("way", ["by a link", "by a reload, later"])
def test_a_second_download_when_the_cookie_has_expired(start: Start, tab: Tab, way: str) -> None:
    """In the tab that still shows the page of the first one: what keeps the page from going round may not bar it."""
    here = site(start)
    tab.open(here.file)
    tab.downloaded()
    tab.clear_cookies()
    if way == "by a link":
        tab.open("about:blank")
        tab.open(here.file)
    else:
        tab.value("history.replaceState(history.state - 21000, '')")  # no cookie has expired sooner
        tab.call("Page.reload")
    assert tab.downloaded(2).read_bytes() == FILE
    assert here.asked(6) == sorted(DOWNLOAD * 2)


# ---- Where there can be no download


def test_a_cookie_that_is_dropped_ends_the_matter(start: Start, tab: Tab) -> None:
    """No HTTPS on a host of the network, and secure_cookie = true: a mistake that must not go round for ever."""
    here = site(start, ELSEWHERE, secure=True)
    tab.open(here.file)
    assert tab.until(FAILED) == NOT_KEPT
    assert tab.value("document.title") == NOT_KEPT
    assert [text.text for text in tab.texts()][-2:] == ["Try again", "download it slowly"]
    assert here.asked(3) == DOWNLOAD, "the second GET gave the page again, and the script stopped there"
    tab.click("#ways a")
    here.asked(6)
    assert tab.until(FAILED) == NOT_KEPT
    tab.call("Page.reload")
    here.asked(9)
    assert tab.until(FAILED) == NOT_KEPT
    assert here.asked(9) == sorted(DOWNLOAD * 3), "one try for each time that the reader asks"


def test_a_reader_who_takes_no_cookies(start: Start, tmp_path: Path) -> None:
    """Nor gives storage: then sessionStorage is a SecurityError."""
    browser = Chromium({"profile": {"default_content_setting_values": {"cookies": 2}}})
    try:
        for tab in new_tab(browser, tmp_path):
            here = site(start)
            tab.open(here.file)
            assert tab.until(FAILED) == NOT_KEPT
            assert tab.cookies() == []
            assert here.asked(3) == DOWNLOAD
            tab.click("#ways a + a")
            assert tab.downloaded().read_bytes() == FILE
    finally:
        browser.close()


def test_without_scripts_there_is_the_slow_way(start: Start, tab: Tab) -> None:
    here = site(start)
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(here.file)
    assert tab.until("document.querySelector('noscript a')?.checkVisibility()")
    texts = " ".join(text.text for text in tab.texts())
    assert "Without JavaScript it will not" in texts
    assert "Try again" not in texts
    tab.click("noscript a")
    assert tab.downloaded().read_bytes() == FILE
    assert here.asked(2) == [GET, f"GET {TARGET}?challenge_fallback=1 200"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"responseCode": 403}, "No download: the server did not grant it (status 403)."),
        ({}, "No download: the server could not be reached (Failed to fetch)."),
    ],
)
def test_no_cookie_is_to_be_had(start: Start, tab: Tab, answer: dict[str, int], told: str) -> None:
    """A ban by now, or no network any more. It says so, and another try can do better."""
    here = site(start)
    tab.hold(f"*{CHALLENGE_PATH}")
    tab.open(here.file)
    number = tab.held()
    if answer:
        tab.call("Fetch.fulfillRequest", requestId=number, **answer)
    else:
        tab.call("Fetch.failRequest", requestId=number, errorReason="ConnectionReset")
    assert tab.until(FAILED) == told
    tab.call("Fetch.disable")
    tab.click("#ways a")
    assert tab.downloaded().read_bytes() == FILE


# ---- The page


def channel(part: int) -> float:
    share = part / 255
    return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance of an opaque `rgb(1, 2, 3)`."""
    red, green, blue = map(int, re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour).groups())  # type: ignore[union-attr]
    return 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue)


def contrast(one: str, other: str) -> float:
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_contrast() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.005)


def read(tab: Tab, scheme: str, width: int) -> list[str]:
    """The texts of a page, which can be read: WCAG 2.2 1.4.3 (contrast), 1.4.10 (no scrolling sideways)."""
    for text in tab.texts():
        assert contrast(text.colour, text.behind) >= 4.5, text
        assert luminance(text.behind) < 0.1 if scheme == "dark" else luminance(text.behind) > 0.9
        assert text.pixels >= 16
    assert tab.value("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    return [text.text for text in tab.texts()]


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_read(start: Start, tab: Tab, scheme: str, width: int) -> None:
    """By day and by night, on a phone and on a desk: while it waits, and when it could not help."""
    here = site(start)
    tab.look(scheme, width)
    tab.hold(f"*{CHALLENGE_PATH}")
    tab.open(here.file)
    number = tab.held()
    waiting = read(tab, scheme, width)
    assert waiting == ["Your download", WAITING]
    tab.call("Fetch.failRequest", requestId=number, errorReason="Failed")
    assert tab.until(FAILED)
    assert {"Try again", "download it slowly"} < set(read(tab, scheme, width))


def test_the_page_can_be_heard(start: Start, tab: Tab) -> None:
    """What a screen reader has of it: a language, a title, a landmark, a heading, and a status that it reads out."""
    here = site(start)
    tab.hold(f"*{CHALLENGE_PATH}")
    tab.open(here.file)
    number = tab.held()
    assert tab.value("document.documentElement.lang") == "en"
    told = [part for part in tab.tree() if part[0] not in ("InlineTextBox", "StaticText")]
    assert told == [("RootWebArea", "Please wait"), ("main", ""), ("heading", "Your download"), ("status", "")]
    assert ("StaticText", WAITING) in tab.tree()
    assert tab.value("document.querySelectorAll('h1').length") == 1
    tab.value("void (window.status_was = document.querySelector('[role=status]'))")
    tab.call("Fetch.failRequest", requestId=number, errorReason="Failed")
    tab.until(FAILED)
    assert tab.value("window.status_was.isConnected"), "a live region that is replaced is not read out"
    assert [part for part in tab.tree() if part[0] == "link"] == [("link", "Try again"), ("link", "download it slowly")]


# ---- Its Content-Security-Policy

FOREIGN = {
    "script": "document.body.appendChild(document.createElement('script')).textContent = 'window.ran = 1'",
    "style": "document.body.setAttribute('style', 'color: red')",
    "image": "document.body.appendChild(new Image()).src = '/a/picture.png'",
    "fetch": "void fetch('http://localhost:9/').catch(String)",
    "form": "document.body.appendChild(document.createElement('form')).submit()",
    "frame": "void (document.body.appendChild(document.createElement('iframe')).src = '/')",
    "base": "document.head.appendChild(document.createElement('base')).href = '/b/'",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_the_page_runs_nothing_but_its_own(start: Start, tab: Tab, what: str) -> None:
    """And no complaint of the browser stays unseen by these tests."""
    here = site(start)
    tab.hold(f"*{CHALLENGE_PATH}")
    tab.open(here.file)
    tab.held()
    assert tab.complaints() == []
    tab.value(FOREIGN[what])
    tab.until_told("Content Security Policy")
    assert tab.value("window.ran") is None
    assert here.asked(1) == [GET]


def test_the_page_is_in_nobodys_frame(start: Start, tab: Tab) -> None:
    """Of another site, whose page is anything that the same server has by another name."""
    here = site(start, "localhost")
    tab.open(f"http://127.0.0.1:{here.server.port}/")
    tab.value(f"void (document.body.appendChild(document.createElement('iframe')).src = {here.file!r})")
    tab.until_told("frame-ancestors")
    here.server.wait_for_log(TARGET)
    assert CHALLENGE_PATH not in "\n".join(here.server.log()), "its script did not run"
