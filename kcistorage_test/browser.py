"""A real browser for tests: headless Chromium, driven by its own DevTools protocol over a pipe.

A pipe needs no port, no WebSocket and no driver program beside the browser. One `Chromium` is one process with a fresh
profile; each `Tab` has cookies, cache and downloads of its own. One thread: what the browser tells is read while a call
waits for its answer, or in `until`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from kcistorage_test.parts_at_hand import needs

NAMES = ("chromium", "google-chrome")
SECONDS = 20.0  # a ceiling for a busy machine; what is waited for takes milliseconds

# Chromium reads commands from descriptor 3 and writes to 4, which subprocess cannot arrange: so a Python on the way.
PLUG_IN = """
import fcntl, os, sys
ours = [fcntl.fcntl(int(text), fcntl.F_DUPFD, 10) for text in sys.argv[1:3]]
os.dup2(ours[0], 3), os.dup2(ours[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

ELSEWHERE = "files.test"  # this host too, by a name that is no loopback to the browser: not trusted without HTTPS
OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # 64 MiB in a container
    "--no-first-run",
    "--password-store=basic",
    # It talks to nobody but us, not even for updates of its own.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)


def program() -> str:
    """The path of the browser. Skips the test where there is none, and fails it with CI=true."""
    return next(filter(None, map(shutil.which, NAMES)), None) or needs(NAMES[0])


class Event(NamedTuple):
    """Something that the browser told without being asked."""

    method: str  # such as Network.requestWillBeSent
    params: dict[str, Any]
    session: str


class Refusal(Exception):
    """The browser's answer to a call that it could not do."""


class Chromium:
    """A browser process with a folder for all it writes. `preferences` are those of a user's profile."""

    def __init__(self, preferences: Optional[dict[str, Any]] = None) -> None:
        self._program = program()
        self._temporary = tempfile.TemporaryDirectory(prefix="chromium-")  # pytest's is too long for a socket's path
        self._folder = Path(self._temporary.name)
        profile = self._folder / "profile" / "Default"
        profile.mkdir(parents=True)
        (profile / "Preferences").write_text(json.dumps(preferences or {}))
        self._buffer = b""
        self._numbers = itertools.count(1)
        self.events: list[Event] = []
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._process = self._start(commands, answers)
        os.close(commands)
        os.close(answers)

    def _start(self, commands: int, answers: int) -> subprocess.Popen[bytes]:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # the sandbox is made of rights that root cannot drop
        command = [self._program, *OPTIONS, *root, f"--user-data-dir={self._folder / 'profile'}"]
        home = dict.fromkeys(("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(self._folder))
        with open(self._folder / "log", "wb") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", PLUG_IN, str(commands), str(answers), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **home},
                pass_fds=(commands, answers),
                start_new_session=True,  # its helpers end with it
            )

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._write({"id": next(self._numbers), "method": "Browser.close"})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):  # all are gone
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        self._temporary.cleanup()

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Does one command of the protocol; raises Refusal."""
        number = next(self._numbers)
        self._write({"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})})
        deadline = time.monotonic() + SECONDS
        while (message := self._read(deadline, method)).get("id") != number:
            pass
        if "error" in message:
            raise Refusal(f"{method}: {message['error']}")
        result: dict[str, Any] = message["result"]
        return result

    def until(self, known: Callable[[], Any], what: str) -> Any:
        """Reads what the browser tells until `known` gives something; that is the result."""
        deadline = time.monotonic() + SECONDS
        while not (found := known()):
            self._read(deadline, what)
        return found

    def _write(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]

    def _read(self, deadline: float, what: str) -> dict[str, Any]:
        """The next message; an event is kept as well. Fails the test at the deadline, and when the browser is gone."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._answers, 1 << 16) if ready else b""
            assert data, f"no {what}; the last events: {self.events[-5:]}; the log: {self._log()}"
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if "method" in message:
            self.events.append(Event(message["method"], message["params"], message.get("sessionId", "")))
        return message

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2_000:]


# Everything that shows text: [text, its colour, the colour behind it, its size in px].
TEXTS = """(() => {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.backgroundColor = "Canvas";
  const canvas = getComputedStyle(probe).backgroundColor;
  probe.remove();
  const clear = /^(transparent|rgba\\(.*, 0\\))$/;
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!clear.test(colour)) return colour;
    }
    return canvas;
  };
  const shown = [...document.body.querySelectorAll("*")].filter(node => node.checkVisibility());
  const data = child => child.nodeType === Node.TEXT_NODE ? child.data : "";
  const own = node => [...node.childNodes].map(data).join("").trim();
  return shown.filter(own).map(node => {
    const style = getComputedStyle(node);
    return [own(node), style.color, behind(node), parseFloat(style.fontSize)];
  });
})()"""


class Text(NamedTuple):
    """A text as the page shows it. Colours are `rgb(0, 0, 0)`."""

    text: str
    colour: str
    behind: str
    pixels: float


class Tab:
    """A tab with cookies, cache and downloads of its own, gone when it is closed."""

    def __init__(self, browser: Chromium, downloads: Path) -> None:
        self._browser, self._begin = browser, len(browser.events)
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        self._allow_downloads(downloads)
        self._target = browser.call("Target.createTarget", url="about:blank", browserContextId=self._context)[
            "targetId"
        ]
        self._session = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Audits", "Accessibility"):
            self.call(f"{domain}.enable")

    def _allow_downloads(self, folder: Path) -> None:
        options: dict[str, Any] = {"behavior": "allow", "downloadPath": str(folder), "eventsEnabled": True}
        self._browser.call("Browser.setDownloadBehavior", browserContextId=self._context, **options)

    def close(self) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def events(self, method: str) -> list[dict[str, Any]]:
        """The parameters of what this tab, or the browser as a whole, has told since the tab is there."""
        ours = (event for event in self._browser.events[self._begin :] if event.session in ("", self._session))
        return [event.params for event in ours if event.method == method]

    def open(self, url: str) -> None:
        """As from the address bar. Does not wait for the page."""
        self.call("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """What an expression gives, in the page; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> Any:
        """Waits until an expression gives something in whichever page is there by then; that is the result."""
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(Refusal):  # a page that was just leaving
                if found := self.value(script):
                    return found
            assert time.monotonic() < deadline, f"{script} is not so: {self.value('document.body.innerText')}"
            threading.Event().wait(0.02)

    def downloaded(self, count: int = 1) -> Path:
        """The file of the tab's download with this number, when it is complete."""

        def complete() -> list[dict[str, Any]]:
            begun = self.events("Browser.downloadWillBegin")
            ours = {download["guid"] for download in begun if download["frameId"] == self._target}
            told = self.events("Browser.downloadProgress")
            return [one for one in told if one["guid"] in ours and one["state"] == "completed"][count - 1 :]

        return Path(self._browser.until(complete, "complete download")[0]["filePath"])

    def requests(self, count: int) -> list[str]:
        """Method and address of each request that the tab made, when there are this many or more.

        Chromium tells of a request and of the download that it became by different ways: either may be first.
        """

        def asked() -> list[str]:
            told = [event["request"] for event in self.events("Network.requestWillBeSent")]
            return [f"{request['method']} {request['url']}" for request in told]

        self._browser.until(lambda: len(asked()) >= count, f"request number {count}")
        return asked()

    def complaints(self) -> list[str]:
        """What the console shows: errors of scripts, refusals by the Content-Security-Policy, and the like."""
        logged = [event["entry"]["text"] for event in self.events("Log.entryAdded")]
        thrown = [str(event["exceptionDetails"]) for event in self.events("Runtime.exceptionThrown")]
        return logged + thrown + [str(event["issue"]) for event in self.events("Audits.issueAdded")]

    def until_told(self, part: str) -> str:
        """The first complaint that holds this."""
        found = self._browser.until(
            lambda: [text for text in self.complaints() if part in text], f"complaint of {part}"
        )
        return str(found[0])

    def cookies(self) -> list[dict[str, Any]]:
        """All that this tab's sites have set."""
        found: list[dict[str, Any]] = self._browser.call("Storage.getCookies", browserContextId=self._context)[
            "cookies"
        ]
        return found

    def clear_cookies(self) -> None:
        self._browser.call("Storage.clearCookies", browserContextId=self._context)

    def hold(self, pattern: str) -> None:
        """From now on requests like this wait for a call of Fetch.continueRequest, failRequest or fulfillRequest."""
        self.call("Fetch.enable", patterns=[{"urlPattern": pattern}])

    def held(self) -> str:
        """The requestId of the request that waits."""
        told = self._browser.until(lambda: self.events("Fetch.requestPaused"), "held request")
        return str(told[-1]["requestId"])

    def look(self, scheme: str, width: int) -> None:
        """As a reader has it who likes "light" or "dark", on a screen of this many CSS pixels."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": 640, "deviceScaleFactor": 2, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def texts(self) -> list[Text]:
        """What can be read, in order."""
        return [Text(*found) for found in self.value(TEXTS)]

    def tree(self) -> list[tuple[str, str]]:
        """Role and name of what a screen reader is told of, in order."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        told = [node for node in nodes if not node["ignored"]]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in told]

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of an element."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.value(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({box})")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
