"""What every reference server has: connections, heads, bodies and ranges by RFC 9110 and 9112, standard library only.

It knows no protocol: routes, names and storage are those of the class that extends it. Each rule is one small method,
so that a fault is one override, and a fault of this class is a fault of every protocol. One thread a connection.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Callable, NamedTuple, Optional
from urllib.parse import unquote_to_bytes

from conformance.core import oracle

Headers = list[tuple[str, str]]
HEAD_BYTES = 32 * 1024
DRAIN_BYTES = 16 << 20  # of a refused body, so that the client can read the refusal
CHUNK = 64 * 1024
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
OF_A_304 = ("ETag", "Last-Modified", "Cache-Control")  # RFC 9110 15.4.5


@dataclass
class Settings:
    """What an operator chooses of any of them. Times in seconds."""

    idle: float = 60.0  # of an upload; a connection between requests may rest for `keep_alive`
    keep_alive: float = 60.0
    certificate: Optional[tuple[str, str]] = None


@dataclass(frozen=True)
class Stored:
    """One version of an object."""

    data: bytes
    kind: str
    etag: str
    modified: int
    owner: str = ""  # who uploaded it, where the protocol asks


@dataclass
class Answer:
    status: int
    body: bytes = b""
    headers: Headers = field(default_factory=list)
    close: bool = False


class Refused(Exception):
    """Ends the handling of a request with an answer."""

    def __init__(self, status: int, text: str, headers: Optional[Headers] = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or []


class Gone(Exception):
    """The peer closed, reset, or says nothing any more."""


class Request(NamedTuple):
    method: str
    target: str
    minor: int
    headers: dict[str, str]  # lower-case names, latin-1 values
    body: Body

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def agent(self) -> str:
        return self.headers.get("user-agent", "")


class Wire:
    """The bytes of one connection, read with a limit of silence."""

    def __init__(self, sock: socket.socket, idle: float) -> None:
        self.sock = sock
        sock.settimeout(idle)
        self.buffer = bytearray()

    def more(self) -> None:
        """Raises Gone at the end, Refused(408) after silence."""
        try:
            data = self.sock.recv(CHUNK)
        except socket.timeout:
            raise Refused(408, "Timeout waiting for the client") from None
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        self.buffer += data

    def until(self, mark: bytes, limit: int) -> bytes:
        while mark not in self.buffer:
            if len(self.buffer) > limit:
                raise Refused(431, "Head too large")
            self.more()
        return self.take(self.buffer.index(mark) + len(mark))

    def take(self, count: int) -> bytes:
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken


class Body:
    """The content of a request by its framing; `some` gives the next bytes, b"" at the end."""

    def __init__(self, wire: Wire, length: Optional[int], chunk_size: Callable[[bytes], int]) -> None:
        self._wire = wire
        self._chunk_size = chunk_size
        self.chunked = length is None
        self._left = length
        self._chunk = 0
        self.ended = length == 0
        self.broken = False
        self.expected = False  # 100-continue was asked and not yet sent

    def some(self) -> bytes:
        """Raises Refused(400) for a bad chunk and Gone when the peer left."""
        if self.ended:
            return b""
        self._ask()
        try:
            return self._counted() if self._left is not None else self._chunked()
        except Refused:
            self.broken = True
            raise

    def _ask(self) -> None:
        if self.expected:
            self.expected = False
            self._wire.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _counted(self) -> bytes:
        assert self._left is not None
        if not self._wire.buffer:
            self._wire.more()
        data = self._wire.take(min(self._left, CHUNK))
        self._left -= len(data)
        self.ended = self._left == 0
        return data

    def _chunked(self) -> bytes:
        if not self._chunk:
            self._chunk = self._chunk_size(self._wire.until(b"\r\n", HEAD_BYTES)[:-2])
            if not self._chunk:
                while self._wire.until(b"\r\n", HEAD_BYTES) != b"\r\n":
                    continue
                self.ended = True
                return b""
        if not self._wire.buffer:
            self._wire.more()
        data = self._wire.take(min(self._chunk, CHUNK))
        self._chunk -= len(data)
        if not self._chunk and self._wire.until(b"\r\n", HEAD_BYTES) != b"\r\n":
            raise Refused(400, "Chunk longer than its size")
        return data


class WebServer:
    """Connections, heads, framing, ranges. A subclass gives routes, objects and their headers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stopping = False
        self._open: set[socket.socket] = set()
        self._busy: set[threading.Thread] = set()

    # -------------------------------------------------------------------------------------------- connections

    def start(self, port: int = 0) -> int:
        """Listens on loopback and serves in threads; gives the port."""
        self.prepare()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._context: Optional[ssl.SSLContext] = None
        if self.settings.certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*self.settings.certificate)
        threading.Thread(target=self._accept, daemon=True).start()
        return int(self._listener.getsockname()[1])

    def prepare(self) -> None:
        """Finds again what an earlier life stored, where that outlives one."""

    def stop(self) -> None:
        """Closes everything; running requests are cut off, and given a moment to let go of their files."""
        self._stopping = True
        self._listener.close()
        for sock in list(self._open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it was closed in this moment
        until = time.monotonic() + 0.3  # some faults never let go
        for thread in list(self._busy):
            thread.join(max(0.0, until - time.monotonic()))

    def _accept(self) -> None:
        while not self._stopping:
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connected, args=(sock, str(peer[0])), daemon=True).start()

    def _connected(self, sock: socket.socket, peer: str) -> None:
        self._busy.add(threading.current_thread())
        self._open.add(sock)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = self._context.wrap_socket(sock, server_side=True) if self._context else sock
            self._open.add(secured)
            self.serve(secured, peer)
            secured.close()
            self._open.discard(secured)
        except OSError:
            pass  # the peer is gone: nobody is left to tell
        finally:
            self._open.discard(sock)
            sock.close()
            self._busy.discard(threading.current_thread())

    def serve(self, sock: socket.socket, peer: str) -> None:
        """All requests of one connection."""
        wire = Wire(sock, self.idle_limit())
        while True:
            request: Optional[Request] = None
            try:
                request = self.read_request(wire)
                answer = self.answer(request, peer)
            except Refused as refused:
                answer = self.refusal(refused)
                answer.close = answer.close or request is None or request.body.broken
            except Gone:
                return self.peer_left(wire, request)
            self.settle_body(request, answer)
            self.send(wire, request, answer)
            if answer.close:
                return self.linger(wire)

    def idle_limit(self) -> float:
        return self.settings.idle

    def peer_left(self, wire: Wire, request: Optional[Request]) -> None:
        """A body ended early: the peer may have closed only its sending side."""
        if request is not None:
            self.send(wire, request, Answer(400, b"Body shorter than declared\n", [], True))

    def settle_body(self, request: Optional[Request], answer: Answer) -> None:
        """Reads what the handler left of the body, so that it is not the next request."""
        if request is None or answer.close:
            return
        if request.body.expected or request.body.broken:
            answer.close = not request.body.ended
            return
        left = DRAIN_BYTES
        declared = int(request.headers.get("content-length", "0"))
        if answer.status >= 400 and declared:
            answer.close = True  # answered at once and drained behind the answer
            return
        while not request.body.ended and left > 0:
            try:
                left -= len(request.body.some())
            except (Refused, Gone):
                break
        answer.close = not request.body.ended

    def linger(self, wire: Wire) -> None:
        """RFC 9112 9.6: close in two steps, or a reset takes the answer from a client that still sends."""
        try:
            if not isinstance(wire.sock, ssl.SSLSocket):
                wire.sock.shutdown(socket.SHUT_WR)
            wire.sock.settimeout(1.0)
            left = DRAIN_BYTES
            while left > 0:
                data = wire.sock.recv(CHUNK)
                if not data:
                    return
                left -= len(data)
        except OSError:
            return

    # --------------------------------------------------------------------------------------------------- heads

    def read_request(self, wire: Wire) -> Request:
        while wire.buffer[:2] == b"\r\n":
            wire.take(2)
        wire.sock.settimeout(self.settings.keep_alive)
        while not wire.buffer:
            try:
                wire.more()
            except Refused:
                raise Gone from None  # an idle connection just ends
        wire.sock.settimeout(self.idle_limit())
        raw = wire.until(b"\r\n\r\n", self.head_limit())[:-4]
        lines = raw.split(b"\r\n")
        method, target, minor = self.request_line(lines[0])
        headers = self.fields(lines[1:])
        self.check_host(headers, minor)
        body = Body(wire, self.framing(headers), self.chunk_size)
        body.expected = headers.get("expect", "").lower() == "100-continue" and minor == 1
        return Request(method, target, minor, headers, body)

    def head_limit(self) -> int:
        return HEAD_BYTES

    def request_line(self, line: bytes) -> tuple[str, str, int]:
        match = re.fullmatch(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (\S+) HTTP/([0-9])\.([0-9])", line)
        if match is None or re.search(rb"[\x00-\x20\x7f]", match[2]):
            raise Refused(400, "Malformed request line")
        if match[3] != b"1":
            raise Refused(505, "Only HTTP/1")
        target = match[2].decode("latin-1")
        if target.lower().startswith("http://"):
            target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
        if not target.startswith("/"):
            raise Refused(400, "Malformed target")
        return match[1].decode(), target, 1 if int(match[4]) else 0

    def fields(self, lines: list[bytes]) -> dict[str, str]:
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or not TOKEN.fullmatch(name) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
                raise Refused(400, "Malformed header")
            name, value = name.lower(), value.strip(" \t")
            if name in headers:
                value = self.repeated(name, headers[name], value)
            headers[name] = value
        return headers

    def repeated(self, name: str, first: str, second: str) -> str:
        if name in ("content-length", "host", "transfer-encoding"):
            raise Refused(400, f"{name} is repeated")
        return f"{first}, {second}"

    def check_host(self, headers: dict[str, str], minor: int) -> None:
        if minor == 1 and "host" not in headers:
            raise Refused(400, "No Host")

    def framing(self, headers: dict[str, str]) -> Optional[int]:
        """The length of the content, None for chunked. RFC 9112 6.3."""
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if coding is not None:
            if length is not None:
                raise Refused(400, "Both Content-Length and Transfer-Encoding")
            if coding.lower() != "chunked":
                raise Refused(501, "Unknown transfer coding")
            return None
        if length is None:
            return 0
        return self.content_length(length)

    def chunk_size(self, line: bytes) -> int:
        match = re.fullmatch(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?", line)
        if match is None:
            raise Refused(400, "Malformed chunk")
        return int(match[1], 16)

    def content_length(self, value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise Refused(400, "Malformed Content-Length")
        return int(value)

    # ------------------------------------------------------------------------------------------------- answers

    def answer(self, request: Request, peer: str) -> Answer:
        self.admit(request, peer)
        methods = self.routes().get(request.path, self.object_methods())
        if request.method not in METHODS:
            return self.unknown_method(request)
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            return self.wrong_method(request, sorted(methods))
        return handler(request)

    def admit(self, request: Request, peer: str) -> None:
        """Raises Refused for whom no route answers."""

    def routes(self) -> dict[str, dict[str, Callable[[Request], Answer]]]:
        raise NotImplementedError

    def object_methods(self) -> dict[str, Callable[[Request], Answer]]:
        """What can be asked of every path that is no route."""
        raise NotImplementedError

    def unknown_method(self, request: Request) -> Answer:
        return self.text(501, "Not Implemented")

    def wrong_method(self, request: Request, methods: list[str]) -> Answer:
        allowed = methods + (["HEAD"] if "GET" in methods else [])
        return self.text(405, "Method Not Allowed", [("Allow", ", ".join(allowed))])

    def text(self, status: int, text: str, headers: Optional[Headers] = None) -> Answer:
        return Answer(status, f"{text}\n".encode(), [("Content-Type", "text/plain; charset=utf-8"), *(headers or [])])

    def json(self, status: int, shape: object, headers: Optional[Headers] = None) -> Answer:
        return Answer(status, json.dumps(shape).encode(), [("Content-Type", "application/json"), *(headers or [])])

    def refusal(self, refused: Refused) -> Answer:
        return self.text(refused.status, refused.text, refused.headers)

    def send(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        if request is not None and not self.keeps(request):
            answer.close = True
        head_only = request is not None and request.method == "HEAD"
        wire.sock.sendall(self.head(request, answer))
        if not head_only and answer.status not in (204, 304):
            self.send_body(wire, request, answer)

    def keeps(self, request: Request) -> bool:
        options = [word.strip().lower() for word in request.headers.get("connection", "").split(",")]
        return "close" not in options and (request.minor == 1 or "keep-alive" in options)

    def head(self, request: Optional[Request], answer: Answer) -> bytes:
        headers = [("Date", formatdate(usegmt=True)), ("Server", "reference"), *answer.headers]
        headers += self.framing_headers(request, answer)
        if answer.close:
            headers.append(("Connection", "close"))
        elif request is not None and request.minor == 0:
            headers.append(("Connection", "keep-alive"))
        return self.head_text(answer.status, self.present(headers))

    def framing_headers(self, request: Optional[Request], answer: Answer) -> Headers:
        if answer.status in (204, 304):
            return []
        return [("Content-Length", str(len(answer.body)))]

    def present(self, headers: Headers) -> Headers:
        return headers

    def head_text(self, status: int, headers: Headers) -> bytes:
        lines = [f"HTTP/1.1 {status} Reason".encode()]
        lines += [f"{name}: ".encode() + value.encode("latin-1") for name, value in headers]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def send_body(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        wire.sock.sendall(answer.body)

    # ------------------------------------------------------------------------------------------------- objects

    def decoded(self, path: str) -> bytes:
        return unquote_to_bytes(path.encode("latin-1"))

    def served(self, request: Request, key: str, stored: Stored) -> Answer:
        headers = self.object_headers(key, stored)
        status = self.precondition(request, stored)
        if status == 412:
            return self.text(412, "Precondition Failed")
        if status == 304:
            return Answer(304, stored.data, [pair for pair in headers if pair[0] in OF_A_304])
        header = request.headers.get("range")
        if header is None or request.method != "GET" or not self.if_range(request, stored):
            return Answer(200, stored.data, headers)
        return self.partial(header, stored, headers)

    def object_headers(self, key: str, stored: Stored) -> Headers:
        raise NotImplementedError

    def precondition(self, request: Request, stored: Stored) -> int:
        """200, 304 or 412. RFC 9110 13.2.2."""
        from_http = oracle.http_date(formatdate(stored.modified, usegmt=True))
        assert from_http is not None
        allowed = oracle.conditional(request.headers, stored.etag, from_http)
        return min(allowed)

    def if_range(self, request: Request, stored: Stored) -> bool:
        value = request.headers.get("if-range")
        return value is None or value == stored.etag

    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        size = len(stored.data)
        allowed = oracle.range(size, header)
        if allowed.spans is not None and not (allowed.whole and header.count(",") > 50):
            if len(allowed.spans) == 1:
                return self.one_part(allowed.spans[0], stored, headers)
            return self.several_parts(allowed.spans, stored, headers)
        if allowed.whole:
            return Answer(200, stored.data, headers)
        return self.unsatisfiable(size)

    def one_part(self, span: oracle.Span, stored: Stored, headers: Headers) -> Answer:
        content = ("Content-Range", f"bytes {span.first}-{span.last}/{len(stored.data)}")
        return Answer(206, stored.data[span.first : span.last + 1], [*headers, content])

    def several_parts(self, spans: tuple[oracle.Span, ...], stored: Stored, headers: Headers) -> Answer:
        out = b""
        for first, last in spans:
            out += f"\r\n--next\r\nContent-Range: bytes {first}-{last}/{len(stored.data)}\r\n\r\n".encode()
            out += stored.data[first : last + 1]
        kept = [pair for pair in headers if pair[0] != "Content-Type"]
        return Answer(206, out + b"\r\n--next--\r\n", [*kept, ("Content-Type", "multipart/byteranges; boundary=next")])

    def unsatisfiable(self, size: int) -> Answer:
        return self.text(416, "Range Not Satisfiable", [("Content-Range", f"bytes */{size}")])

    # ------------------------------------------------------------------------------------------------- metrics

    def metrics(self, request: Request) -> Answer:
        return Answer(200, self.metrics_text().encode(), [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")])

    def metrics_text(self) -> str:
        raise NotImplementedError
