"""A raw HTTP/1.1 client on sockets: it sends the bytes it is given and reads the answer strictly by RFC 9112.

HTTP libraries normalise paths, mend headers and hide framing; a suite that judges a server must do none of it.
A `Connection` belongs to one thread.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Callable, NamedTuple, Optional
from urllib.parse import urlsplit

from conformance.core.transcript import Transcript

Headers = Sequence[tuple[str, str]]

HEAD_BYTES = 64 * 1024  # more than any honest answer needs
BODY_BYTES = 256 * 1024 * 1024  # a listing of a production server fits; an endless body does not
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2}) [\t \x21-\x7e\x80-\xff]*")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_numbers = count(1)


class WireError(Exception):
    """The exchange did not give an answer."""


class Unreachable(WireError):
    """No connection could be made."""


class NoAnswer(WireError):
    """The time ran out."""


class Closed(WireError):
    """The server closed or reset the connection before the answer was whole."""


class Malformed(WireError):
    """The answer breaks RFC 9110 or 9112."""


@lru_cache(maxsize=2)  # reading the host's certificates takes longer than a handshake
def _context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True)
class Target:
    """Where the server is. `prefix` is the path in front of every route, usually empty."""

    scheme: str
    host: str
    port: int
    prefix: str = ""
    verify: bool = True

    @classmethod
    def parse(cls, url: str, *, verify: bool = True) -> Target:
        """Raises ValueError for anything but an absolute http or https URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"not an http or https URL of a server: {url}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"), verify)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.scheme == "https" else 80
        return host if self.port == usual else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def loopback(self) -> bool:
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def connect(self, seconds: float, receive_buffer: Optional[int]) -> socket.socket:
        """Raises Unreachable."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            sock = socket.socket(family, kind, protocol)
            if receive_buffer is not None:  # must be set before the handshake to bound the window
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(seconds)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._secured(sock) if self.scheme == "https" else sock
        except OSError as error:
            raise Unreachable(f"{self.origin}: {error}") from error

    def _secured(self, sock: socket.socket) -> socket.socket:
        return _context(self.verify).wrap_socket(sock, server_hostname=self.host)


class Head(NamedTuple):
    minor: int
    status: int
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Response:
    """One final answer. Header values are latin-1 text, byte for byte; `framing` says how its end was known."""

    minor: int
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    framing: str  # "none", "length", "chunked", "close"
    interim: tuple[int, ...] = ()
    seconds: float = 0.0

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> Optional[str]:
        """The one value of a header, None when it is absent. Raises Malformed when it is there twice."""
        values = self.all(name)
        if len(values) > 1:
            raise Malformed(f"{name} is there {len(values)} times: {values}")
        return values[0] if values else None

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "backslashreplace")

    @property
    def closes(self) -> bool:
        """Whether the server said that it closes, or must."""
        options = [word.strip().lower() for value in self.all("Connection") for word in value.split(",")]
        if self.framing == "close" or "close" in options:
            return True
        return self.minor == 0 and "keep-alive" not in options


def _parse_head(raw: bytes) -> Head:
    lines = raw.split(b"\r\n")
    status = _STATUS_LINE.fullmatch(lines[0])
    if status is None:
        raise Malformed(f"status line {lines[0][:80]!r}")
    headers: list[tuple[str, str]] = []
    for line in lines[1:]:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise Malformed(f"header line {line[:80]!r}")
        headers.append((match[1].decode("ascii"), match[2].decode("latin-1")))
    return Head(int(status[1]), int(status[2]), tuple(headers))


def _check_framing(lengths: list[str], codings: list[str]) -> None:
    if lengths and codings:
        raise Malformed("both Content-Length and Transfer-Encoding")
    if len(lengths) > 1 or any(not re.fullmatch(r"[0-9]{1,18}", value) for value in lengths):
        raise Malformed(f"Content-Length {lengths}")
    if codings not in ([], ["chunked"]):
        raise Malformed(f"Transfer-Encoding {codings}")


@dataclass
class Connection:
    """One connection, with its transcript. `seconds` bounds each send and each answer."""

    target: Target
    transcript: Transcript
    seconds: float
    receive_buffer: Optional[int] = None
    on_answer: Optional[Callable[[float], None]] = None  # told how long each answer took
    number: int = field(default_factory=lambda: next(_numbers))
    _buffer: bytearray = field(default_factory=bytearray)
    _deadline: float = 0.0

    def __post_init__(self) -> None:
        self._sock = self.target.connect(self.seconds, self.receive_buffer)
        self._closed = False

    # ------------------------------------------------------------------------------------------------ sending

    def send(self, data: bytes, *, opening: bool = True) -> bool:
        """True when every byte was taken. A server may answer and close early: that is no error here.

        Raises NoAnswer when the server takes no bytes for `seconds`.
        """
        if opening:
            self.transcript.request = (self.target.origin, data)
        self.transcript.add(self.number, ">", data)
        self._sock.settimeout(self.seconds)
        try:
            self._sock.sendall(data)
        except socket.timeout:
            raise NoAnswer(f"the server stopped taking bytes for {self.seconds:g} s") from None
        except OSError as error:
            self.transcript.note(f"send stopped: {error}")
            return False
        return True

    def finish_sending(self) -> None:
        """Half-close: no more bytes will come from here."""
        self.transcript.note(f"#{self.number} end of sending")
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.transcript.note(f"half-close: {error}")

    def reset(self) -> None:
        """Vanish with a TCP reset."""
        self.transcript.note(f"#{self.number} reset")
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()
        self._closed = True

    def close(self) -> None:
        if not self._closed:
            self._sock.close()
            self._closed = True

    # ---------------------------------------------------------------------------------------------- receiving

    def answered_within(self, seconds: float) -> bool:
        """Whether a byte, or the end of the connection, came within that time. Reads nothing."""
        if self._buffer or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
            return True
        return bool(select.select([self._sock], [], [], seconds)[0])

    def ended_within(self, seconds: float) -> bool:
        """Whether the server closed the connection within that time without sending another byte."""
        if self._buffer or not self.answered_within(seconds):
            return False
        self._sock.settimeout(seconds)
        try:
            more = self._sock.recv(65536)
        except OSError:
            return True  # a reset is an end too
        self._buffer += more
        return not more

    def receive(self, method: str = "GET") -> Response:
        """The next final answer. Raises NoAnswer, Closed, Malformed."""
        started = time.monotonic()
        head, interim = self.receive_head()
        body, framing = self.receive_body(head, method)
        took = time.monotonic() - started
        if self.on_answer is not None:
            self.on_answer(took)
        return Response(head.minor, head.status, head.headers, body, framing, tuple(interim), took)

    def receive_head(self) -> tuple[Head, list[int]]:
        """The next final head, and the interim statuses before it."""
        interim: list[int] = []
        while True:
            head = self.receive_one_head()
            if head.status >= 200 or head.status == 101:
                return head, interim
            interim.append(head.status)

    def receive_one_head(self) -> Head:
        """The next head, be it interim or final."""
        self._deadline = time.monotonic() + self.seconds
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > HEAD_BYTES:
                raise Malformed(f"no end of the head in {HEAD_BYTES} bytes")
            if b"\n\n" in self._buffer:
                raise Malformed("bare LF in the head")
            if not self._more():
                came = bytes(self._buffer[:80])
                raise Closed(f"closed inside a head after {came!r}" if came else "closed without an answer")
        raw = self._take(self._buffer.index(b"\r\n\r\n") + 4)
        self.transcript.add(self.number, "<", raw)
        return _parse_head(raw[:-4])

    def receive_body(self, head: Head, method: str) -> tuple[bytes, str]:
        """The content that belongs to `head`, and its framing. RFC 9112 6.3."""
        lengths = [value for name, value in head.headers if name.lower() == "content-length"]
        codings = [value.lower() for name, value in head.headers if name.lower() == "transfer-encoding"]
        _check_framing(lengths, codings)
        if method == "HEAD" or head.status in (204, 304):
            return b"", "none"
        if codings:
            body, framing = self._chunked(), "chunked"
        elif lengths:
            body, framing = self._exactly(int(lengths[0])), "length"
        else:
            body, framing = self._to_the_end(), "close"
        if body:
            self.transcript.add(self.number, "<", body)
        return body, framing

    def _chunked(self) -> bytes:
        out = bytearray()
        while True:
            line = self._line()
            size = re.fullmatch(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t \x21-\x7e\x80-\xff]*)?", line)
            if size is None:
                raise Malformed(f"chunk size {line[:40]!r}")
            length = int(size[1], 16)
            if length == 0:
                while self._line():
                    continue  # trailers
                return bytes(out)
            out += self._exactly(length)
            if self._exactly(2) != b"\r\n":
                raise Malformed("a chunk is not followed by CRLF")
            if len(out) > BODY_BYTES:
                raise Malformed(f"a chunked body of more than {BODY_BYTES} bytes")

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > HEAD_BYTES or not self._more():
                raise Malformed("a chunked body that does not end")
        return self._take(self._buffer.index(b"\r\n") + 2)[:-2]

    def _exactly(self, length: int) -> bytes:
        if length > BODY_BYTES:
            raise Malformed(f"a body of {length} bytes is announced")
        while len(self._buffer) < length:
            if not self._more():
                raise Closed(f"closed after {len(self._buffer)} of {length} bytes of content")
        return self._take(length)

    def _to_the_end(self) -> bytes:
        while self._more():
            if len(self._buffer) > BODY_BYTES:
                raise Malformed(f"a body of more than {BODY_BYTES} bytes")
        return self._take(len(self._buffer))

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def _more(self) -> bool:
        """Reads more into the buffer; False at the end of the connection. Progress renews the deadline of a body."""
        self._sock.settimeout(max(0.001, self._deadline - time.monotonic()))
        try:
            data = self._sock.recv(256 * 1024)
        except socket.timeout:
            raise NoAnswer(f"no whole answer within {self.seconds:g} s") from None
        except OSError as error:
            raise Closed(f"the connection broke: {error}") from error
        if data and len(self._buffer) > HEAD_BYTES:
            self._deadline = time.monotonic() + self.seconds
        self._buffer += data
        return bool(data)


def head_bytes(method: str, target: str, headers: Headers, version: str = "HTTP/1.1") -> bytes:
    """A request head, byte for byte: header values are latin-1 text, the target is UTF-8."""
    lines = [f"{method} {target} {version}".encode()]
    lines += [f"{name}: {value}".encode("latin-1") for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"
