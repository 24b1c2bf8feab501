"""HTTP/1.1 from the client's side: requests to one server, on connections that stay open (RFC 9110, RFC 9112).

    Connections    any thread asks; each request has a connection for itself, the one that fell idle last
    Reply          its body, in memory; of a range that was asked for the beginning, and the rest as it arrives
    Properties     what a reply says of an object; `check_span`, `lost` and Arriving are for its bytes

http.client reads the head of a reply as that of an e-mail. Measured: that takes 0.25 ms of the 2 ms in which an
emulator, asked by us, answers a GET of 4 KiB.

Errors: OSError where the server is out of reach or hangs up, BadReply where what it says is no HTTP, or not what
`Request.check` wants. The server may have done what it was asked for all the same.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import io
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, BinaryIO, Callable, NamedTuple, Optional, Union
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 60.0  # a network forgets silent connections without a word, Azure's own after 4 minutes
PIECE_BYTES = 256 << 10  # what one sendall() is given, for its time-out is for the whole of that; pieces of a range
SMALL_BYTES = 64 << 10  # a range of up to so many is body; of a larger one what comes first, be it a single byte
READ_AHEAD = 16 << 10  # bytes: a head, and all of a small reply
MOST_LINE, MOST_FIELDS = 16 << 10, 200  # bytes, and how many
MOST_BODY = 64 << 20  # bytes: what comes is in memory, and is not to be all of it

STATUS_LINE = re.compile(r"HTTP/1\.([0-9]) ([1-5][0-9]{2})(?: .*)?")
FIELD = re.compile(r"^([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n]*)\r?\n", re.MULTILINE)
NO_MORE = (b"\r\n", b"\n", b"")  # at the end of fields; the last one where the connection ends too
LENGTH = re.compile(r"[0-9]{1,18}")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+|-1)/(\d+)")  # Azurite has 206 with 0--1/0 for the first byte of nothing
CHUNK_SIZE = re.compile(r"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
LINE_BREAK = re.compile(r"[\r\n\0]")  # in a field it would begin another one, or a request

Headers = Mapping[str, str]  # of a reply: names in small letters


class BadReply(Exception):
    """What came is no reply, or not the one that was asked for. The connection is of no use any more."""


def any_reply(status: int, headers: Headers) -> None:
    """For requests that take what comes."""


class Request(NamedTuple):
    method: str
    target: str  # path and query, percent-encoded
    headers: Mapping[str, str]
    body: bytes
    check: Callable[[int, Headers], None]  # is shown status and headers, and may raise BadReply: no body is read then


def read_exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ConnectionResetError("it hung up")
    return data


class Rest:
    """What of a body is still to come. One thread reads it, once; whoever does not, or not to its end, closes it."""

    def __init__(self, file: BinaryIO, left: int, finish: Callable[[], None], give_up: Callable[[], None]) -> None:
        self._file, self._left, self._finish, self._give_up = file, left, finish, give_up

    def __iter__(self) -> Iterator[bytes]:
        """Pieces of up to PIECE_BYTES. Raises OSError."""
        try:
            while self._left:
                piece = read_exactly(self._file, min(self._left, PIECE_BYTES))
                self._left -= len(piece)
                if not self._left:
                    self._finish()
                yield piece
        finally:
            self.close()

    def close(self) -> None:
        if self._left:
            self._left = 0
            self._give_up()


class Reply(NamedTuple):
    status: int
    headers: Headers
    body: bytes
    rest: Rest  # of a range
    repeated: bool = False  # the server may have done it twice: an answer was lost on the way


# ---- A reply on the wire


def read_line(file: BinaryIO) -> str:
    line = file.readline(MOST_LINE)
    if len(line) == MOST_LINE:
        raise BadReply("a line without an end")
    if not line.endswith(b"\n"):
        raise ConnectionResetError("it hung up")
    return line.rstrip(b"\r\n").decode("latin-1")


def read_fields(file: BinaryIO) -> Headers:
    """Fields up to an empty line; those of one name are one, with a list (RFC 9110 5.3)."""
    lines = [line := file.readline(MOST_LINE)]
    while line not in NO_MORE:
        if len(lines) == MOST_FIELDS or len(line) == MOST_LINE:
            raise BadReply("a head without an end")
        lines.append(line := file.readline(MOST_LINE))
    if not line:
        raise ConnectionResetError("it hung up")
    found = FIELD.findall(b"".join(lines).decode("latin-1"))
    if len(found) < len(lines) - 1:
        raise BadReply("a line that is no field")
    fields: dict[str, str] = {}
    for name, value in ((name.lower(), value.strip(" \t")) for name, value in found):
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def read_head(file: BinaryIO) -> tuple[int, int, Headers]:
    """The minor version, the status and the fields."""
    found = STATUS_LINE.fullmatch(read_line(file))
    if found is None or found[2] == "101":  # nobody asked for another protocol
        raise BadReply("no status line")
    return int(found[1]), int(found[2]), read_fields(file)


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The data of a body in the chunked coding (RFC 9112 7.1)."""
    left = MOST_BODY
    while True:
        found = CHUNK_SIZE.fullmatch(read_line(file))
        size = int(found[1], 16) if found else left + 1
        if size > left:
            raise BadReply("a chunk without a size, or a body without an end")
        if size == 0:
            read_fields(file)  # trailers
            return
        yield read_exactly(file, size)
        left -= size
        if read_line(file):
            raise BadReply("a chunk of another size")


def told_length(headers: Headers) -> int:
    length = headers["content-length"]
    if not LENGTH.fullmatch(length):
        raise BadReply("a length that is no number")
    return int(length)


def read_body(file: BinaryIO, headers: Headers) -> bytes:
    """A body, framed as the head says (RFC 9112 6.3)."""
    if "transfer-encoding" in headers:
        if headers["transfer-encoding"].lower() != "chunked":
            raise BadReply("a transfer coding that nobody asked for")
        return b"".join(chunks(file))
    if "content-length" in headers:
        length = told_length(headers)
        if length > MOST_BODY:
            raise BadReply("a body that is too large")
        return read_exactly(file, length)
    body = file.read(MOST_BODY + 1)
    if len(body) > MOST_BODY:
        raise BadReply("a body without an end")
    return body


# ---- Connections


class Incoming(io.RawIOBase):
    """What comes through a socket; nothing while `closed_off`: a buffer then shows what it has, and does not wait."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket, self.closed_off = connected, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        return None if self.closed_off else self._socket.recv_into(buffer)


class Connection:
    """A connection. One thread at a time."""

    def __init__(self, connected: socket.socket, host: str) -> None:
        self._socket, self._host = connected, host
        self._incoming = Incoming(connected)
        self._file = io.BufferedReader(self._incoming, READ_AHEAD)

    def ask(self, request: Request, free: Callable[[Connection], None]) -> Reply:
        """One request, and its reply; `free` is told when another may follow. Else, and on errors, it closes itself."""
        try:
            whole = self._send(request)
            minor, status, headers = read_head(self._file)
            while status < 200:  # any number of these may come before (RFC 9110 15.2)
                minor, status, headers = read_head(self._file)
            request.check(status, headers)
            body, left, framed = self._read_body(request.method, status, headers)
            stays = whole and framed and minor > 0 and "close" not in headers.get("connection", "").lower()
            rest = Rest(self._file, left, partial(self._finish, stays, free), self.close)
            if not left:
                self._finish(stays, free)
            return Reply(status, headers, body, rest)
        except BaseException:
            self.close()
            raise

    def _read_body(self, method: str, status: int, headers: Headers) -> tuple[bytes, int, bool]:
        """The body, how many bytes of it are left to be read, and whether more can follow it (RFC 9112 9.3)."""
        if method == "HEAD" or status in (204, 304):
            return b"", 0, True
        told, coded = "content-length" in headers, "transfer-encoding" in headers
        if status != 206 or not told or coded:
            return read_body(self._file, headers), 0, told or coded
        length = told_length(headers)
        first = length if length <= SMALL_BYTES else len(self._file.peek(1)) or 1  # what has come, or comes next
        return read_exactly(self._file, first), length - first, True

    def _finish(self, stays: bool, free: Callable[[Connection], None]) -> None:
        if stays and not self._has_more():
            free(self)
        else:
            self.close()

    def _send(self, request: Request) -> bool:
        """Whether all of it was sent. What is refused before tells by its reply why."""
        head, body = self._head(request), memoryview(request.body)
        first = PIECE_BYTES - len(head)
        try:
            self._socket.sendall(head + body[:first])
            for at in range(first, len(body), PIECE_BYTES):
                self._socket.sendall(body[at : at + PIECE_BYTES])
        except BrokenPipeError:
            return False
        return True

    def _head(self, request: Request) -> bytes:
        fields = {"Host": self._host, "User-Agent": "kcistorage", "Accept-Encoding": "identity", **request.headers}
        if request.body or request.method in ("PUT", "POST"):  # RFC 9110 8.6
            fields["Content-Length"] = str(len(request.body))
        lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
        if LINE_BREAK.search("".join(lines)):
            raise ValueError("a line break in a request")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _has_more(self) -> bool:
        """Whether more came than a reply: nobody knows what it is an answer to."""
        self._incoming.closed_off = True
        more = self._file.peek(1)
        self._incoming.closed_off = False
        return bool(more)

    def close(self) -> None:
        self._socket.close()


def proxy_for(url: SplitResult) -> Optional[SplitResult]:
    """What HTTPS_PROXY or ALL_PROXY names, unless NO_PROXY excepts the host. ValueError: it can be no proxy.

    None for http: what has no TLS is taken to be near.
    """
    named = getproxies_environment()
    address = named.get("https") or named.get("all") or ""
    if not address or url.scheme != "https" or proxy_bypass(url.hostname or ""):
        return None
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    if proxy.scheme != "http" or not proxy.hostname or proxy.port == 0:  # of 65,536 and more, urlsplit says so itself
        raise ValueError("HTTPS_PROXY: a URL of the form http://host:port")
    return proxy


def tunnelled(proxy: SplitResult, host: str, port: int, seconds: float) -> socket.socket:
    """A connection to a host by way of a proxy (RFC 9110 9.3.6)."""
    user = f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}"
    login = f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}\r\n" if proxy.username else ""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    connected = socket.create_connection((proxy.hostname, proxy.port or 80), seconds)
    try:
        connected.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{login}\r\n".encode())
        with connected.makefile("rb") as file:  # what it reads ahead is nothing: in TLS, a client speaks first
            status = read_head(file)[1]
        if status >= 300:
            raise ConnectionError(f"the proxy said {status}")
        return connected
    except BaseException:
        connected.close()
        raise


class Connections:
    """Connections to the server of a URL. Any thread may call. `timeout_seconds` is the longest silence.

    ValueError: the host has a name that no host can have, or the environment names a proxy that can be none.
    """

    def __init__(self, url: SplitResult, timeout_seconds: float) -> None:
        self._timeout_seconds, self._proxy = timeout_seconds, proxy_for(url)
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._name, self._port = url.hostname or "", url.port or (443 if self._tls else 80)
        self._host = url.netloc.rpartition("@")[2].encode("idna").decode()  # UnicodeError is a ValueError
        self._idle: deque[tuple[Connection, float]] = deque()
        self._closed = False

    def ask(self, request: Request) -> Reply:
        """A reply, whatever it says. Where a connection that was kept fails, as it may, the request goes out again."""
        kept = self._kept()
        if kept is not None:
            try:
                return kept.ask(request, self._keep)
            except (ConnectionError, BadReply):  # the server hung up on it, and so, likely, on the others
                self._close_idle(0)
        return self._connected().ask(request, self._keep)._replace(repeated=kept is not None)

    def _kept(self) -> Optional[Connection]:
        """The connection that fell idle last, and so the best one."""
        with contextlib.suppress(IndexError):
            connection, since = self._idle.pop()
            if time.monotonic() - since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    def _connected(self) -> Connection:
        patience = min(CONNECT_SECONDS, self._timeout_seconds)
        if self._proxy is not None:
            connected = tunnelled(self._proxy, self._name, self._port, patience)
        else:
            connected = socket.create_connection((self._name, self._port), patience)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connected = self._tls.wrap_socket(connected, server_hostname=self._name)
            connected.settimeout(self._timeout_seconds)
            return Connection(connected, self._host)
        except BaseException:
            connected.close()
            raise

    def _keep(self, connection: Connection) -> None:
        self._idle.append((connection, time.monotonic()))
        self._close_idle(0 if self._closed else IDLE_SECONDS)

    def _close_idle(self, seconds: float) -> None:
        """Closes those that have been idle for so long."""
        before = time.monotonic() - seconds
        with contextlib.suppress(IndexError):
            while self._idle[0][1] <= before:
                self._idle.popleft()[0].close()

    def close(self) -> None:
        """Those that are under way close when they come back."""
        self._closed = True
        self._close_idle(0)


# ---- Objects


class Properties(NamedTuple):
    """What is known of a whole object."""

    size: int  # bytes
    etag: str  # strong, with its quotes
    modified: int  # seconds since the epoch
    content_type: str  # "" where nobody said


def properties(headers: Headers, size: Union[str, int], content_type: Optional[str] = None) -> Properties:
    """What a reply says of an object, but for what we know better. ConnectionError: it says too little."""
    try:
        modified = int(parsedate_to_datetime(headers["last-modified"]).timestamp())
        return Properties(int(size), headers["etag"], modified, content_type or headers.get("content-type", ""))
    except (LookupError, TypeError, ValueError):
        raise ConnectionError("no storage answers without size, ETag and Last-Modified") from None


def check_span(start: int, stop: int, status: int, headers: Headers) -> None:
    """For a range (RFC 9110 14.2): the bytes [start, stop) are to come, as many of them as there are, or a refusal."""
    if status >= 300:
        return
    found = CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    first, last, size = map(int, found.groups()) if found else (-1, 0, 0)
    length = str(last + 1 - first)
    if first != start or last + 1 != min(stop, size) or headers.get("content-length") != length:
        raise BadReply("other bytes than were asked for")


def lost(what: str, error: Exception) -> OSError:
    """What goes wrong on the way, in one of two classes. (Before Python 3.10 a socket's time-out is none of them.)"""
    if isinstance(error, (TimeoutError, socket.timeout)):
        return TimeoutError(errno.ETIMEDOUT, f"{what}: no answer in time")
    return ConnectionError(f"{what}: no answer: {type(error).__name__}: {error}")


class Arriving:
    """What is still to come of an object. It is read once; whoever does not, or not to its end, closes it."""

    def __init__(self, what: str, rest: Rest) -> None:
        self._what, self._rest, self.close = what, rest, rest.close

    def __iter__(self) -> Iterator[bytes]:
        """Raises ConnectionError and TimeoutError."""
        try:
            yield from self._rest
        except (OSError, BadReply) as error:
            raise lost(self._what, error) from None
