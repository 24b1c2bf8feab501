"""A client for tests: it sends exactly the bytes it is told to, and reads answers strictly."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Optional, Union

Content = Union[str, bytes]


class Reply(NamedTuple):
    """An answer. Field names are lower-case; no field of ours may come twice."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


BOUNDARY = "----kcistorage-test-boundary"


def part(name: str, filename: Optional[str], content: Content) -> bytes:
    told = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    data = content.encode() if isinstance(content, str) else content
    return f"--{BOUNDARY}\r\nContent-Disposition: {told}\r\n\r\n".encode() + data + b"\r\n"


def form(*fields: Field) -> bytes:
    """A multipart form of (name, filename or None, content)."""
    return b"".join(part(*field) for field in fields) + f"--{BOUNDARY}--\r\n".encode()


FORM_TYPE = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"


class Peer:
    """One connection. `send` raw bytes or `get`/`post`; `reply` reads the next answer."""

    def __init__(self, address: tuple[str, int], seconds: float = 10.0) -> None:
        self.socket: socket.socket = socket.create_connection(address, timeout=seconds)
        self.buffer = b""

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.socket.close()

    def secure(self, context: ssl.SSLContext) -> Peer:
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        return self

    def send(self, data: Content) -> Peer:
        self.socket.sendall(data.encode("utf-8") if isinstance(data, str) else data)
        return self

    def ask(self, method: str, target: str, *fields: str, body: bytes = b"") -> Reply:
        """One request with the given field lines; Content-Length is added when there is a body."""
        lines = [f"{method} {target} HTTP/1.1", "Host: test", *fields]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body)
        return self.reply(head_only=method == "HEAD")

    def get(self, target: str, *fields: str) -> Reply:
        return self.ask("GET", target, *fields)

    def upload(self, token: str, path: str, filename: str, content: bytes, *fields: str) -> Reply:
        body = form(("path", None, path), ("file0", filename, content))
        return self.ask("POST", "/upload", f"Authorization: Bearer {token}", FORM_TYPE, *fields, body=body)

    def reply(self, head_only: bool = False) -> Reply:
        """The next answer; an informational one (100) has no body."""
        head = self._until(b"\r\n\r\n")
        first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        fields: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(": ")
            assert colon, f"bad header line {line!r}"
            assert name.lower() not in fields, f"{name} twice"
            fields[name.lower()] = value
        bodiless = head_only or status.startswith("1") or status in ("204", "304")
        return Reply(int(status), fields, b"" if bodiless else self._body(fields))

    def _body(self, fields: dict[str, str]) -> bytes:
        if fields.get("transfer-encoding") == "chunked":
            return b"".join(self._chunks())
        if "content-length" in fields:
            return self.take(int(fields["content-length"]))
        return self.rest()

    def _chunks(self) -> list[bytes]:
        chunks = []
        while size := int(self._until(b"\r\n"), 16):
            chunks.append(self.take(size))
            assert self.take(2) == b"\r\n"
        assert self.take(2) == b"\r\n"
        return chunks

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self._receive()
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._receive()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def _receive(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError(f"the server closed after {self.buffer[:200]!r}")
        self.buffer += data

    def rest(self) -> bytes:
        """All that comes until the server closes; a reset fails the test."""
        while data := self.socket.recv(1 << 20):
            self.buffer += data
        data, self.buffer = self.buffer, b""
        return data


Field = tuple[str, Optional[str], Content]


def chunked(blocks: Sequence[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks) + b"0\r\n\r\n"
