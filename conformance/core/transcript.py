"""What went over the wire, and how it is shown: times, directions, bytes, and no secret."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

SHOWN_BYTES = 2048  # of one event in a report; the rest is given by length and digest
KEPT_BYTES = 64 * 1024  # of one event in memory: a transcript never holds a 16 MiB body
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")  # {" in base64, which begins every token
_BASE64 = re.compile(r"[A-Za-z0-9+/]{8,}={0,2}")
_QUOTED_SECRET = re.compile(r"\$(TOKEN|LIMITED|EXPIRED|SECRET|BASIC(?:64)?)\b")


class Redactor:
    """Replaces secrets by value wherever they stand, and whatever looks like a JWT. Safe to share between threads.

    What holds a secret when it is read as base64, such as wrong credentials with the right password, goes too.
    """

    def __init__(self, secrets: Iterable[tuple[str, str]]) -> None:
        # Longest first: a secret that contains another must go whole.
        self._secrets = sorted(((name, value) for name, value in secrets if value), key=lambda pair: -len(pair[1]))

    def __call__(self, text: str) -> str:
        for name, value in self._secrets:
            text = text.replace(value, f"${name}")
        return _JWT.sub("$JWT", _BASE64.sub(self._without_secret, text))

    def _without_secret(self, match: re.Match[str]) -> str:
        bare = match[0].rstrip("=")
        raw = base64.b64decode(bare[: len(bare) - (len(bare) % 4 == 1)] + "=" * (-len(bare) % 4 % 3))
        return "$HIDDEN" if any(value.encode() in raw for _, value in self._secrets) else match[0]


class Event(NamedTuple):
    """One thing that happened: `>` bytes sent, `<` bytes received, `!` a note."""

    seconds: float
    connection: int
    direction: str
    data: bytes
    length: int
    sha256: str

    def text(self) -> str:
        shown = self.data[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
        if self.length > SHOWN_BYTES:
            shown += f"\n… {self.length} bytes in all, sha256 {self.sha256}"
        return shown


def _escaped(data: bytes) -> str:
    """For `printf %b`: text stays text, so that a secret in it is seen and hidden."""
    known = {92: "\\\\", 13: "\\r", 10: "\\n"}
    return "".join(known.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\0{byte:03o}") for byte in data)


def _piped(data: bytes) -> str:
    # Printable text is shown as it is; anything else travels as base64, which every shell carries unharmed.
    if all(32 <= byte < 127 for byte in data):
        return f"printf %s {shlex.quote(data.decode())}"
    return f"printf %s {base64.b64encode(data).decode()} | base64 -d"


def _curl(base: str, data: bytes) -> str:
    head, blank, body = data.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    words = lines[0].split(" ")
    plain = blank and len(words) == 3 and words[1].startswith("/") and words[2] == "HTTP/1.1" and head.isascii()
    fields = [line.partition(":") for line in lines[1:]]
    names = [name.lower() for name, _, _ in fields]
    if (
        not plain
        or "transfer-encoding" in names
        or len(set(names)) != len(names)
        or any(c != ":" for _, c, _ in fields)
    ):
        # A request that curl would mend on its way is sent as raw bytes.
        sent = f"printf %b {shlex.quote(_escaped(head + blank))}" + (f"; {_piped(body)}" if body else "")
        return f"({sent}; sleep 2) | curl -sN --max-time 20 {shlex.quote('telnet://' + base.split('//', 1)[1])}"
    options = [f"-X {shlex.quote(words[0])}"] if words[0] != "HEAD" else ["-I"]
    for name, _, value in fields:
        if name.lower() == "content-length" and value.strip() == str(len(body)):
            continue
        # curl reads `Name:` as "leave this header out" and `Name;` as "send it empty".
        options.append("-H " + shlex.quote(f"{name}: {value.strip()}" if value.strip() else f"{name};"))
    if body:
        options.append("--data-binary @-")
    line = f"curl -sS -i --max-time 20 --path-as-is {' '.join(options)} {shlex.quote(base + words[1])}"
    return f"{_piped(body)} | {line}" if body else line


def _unquoted(match: re.Match[str]) -> str:
    value = '$(printf %s "$BASIC" | base64)' if match[1] == "BASIC64" else match[0]
    return f"""'"{value}"'"""


@dataclass
class Transcript:
    """The events of one check, in order. Appending is safe from several threads."""

    started: float = field(default_factory=time.monotonic)
    events: list[Event] = field(default_factory=list)
    request: Optional[tuple[str, bytes]] = None  # base URL and bytes of the last request sent

    def add(self, connection: int, direction: str, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest() if len(data) > SHOWN_BYTES else ""
        since = time.monotonic() - self.started
        self.events.append(Event(since, connection, direction, data[:KEPT_BYTES], len(data), digest))

    def note(self, text: str) -> None:
        self.add(0, "!", text.encode())

    def lines(self, redact: Redactor) -> list[str]:
        out: list[str] = []
        for event in self.events:
            head = f"{event.seconds * 1000:9.1f} ms  #{event.connection} {event.direction} "
            out += [head + line for line in redact(event.text()).replace("\r\n", "\n").split("\n")]
        return out

    def curl(self, redact: Redactor) -> str:
        """A shell line that sends the last request again; empty when nothing was sent."""
        if self.request is None:
            return ""
        base, data = self.request
        if len(data) > KEPT_BYTES:
            return f"# the request has {len(data)} bytes: use `replay`"
        # The name of a secret stands inside single quotes, where a shell would not look it up.
        return _QUOTED_SECRET.sub(_unquoted, redact(_curl(base, data)))
