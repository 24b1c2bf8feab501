#!/usr/bin/env python3
"""kcistorage: an artifact storage server that speaks the KernelCI storage protocol.

Build farms and test labs upload kernels, logs and root file systems; everybody downloads them. This file is the spine,
meant to be read once from top to bottom; `kcistorage_parts` holds the leaves it stands on.

The way of a request:

    socket -> Lobby -> Connection -> heads.parse_head -> Exchange -> Site: gates, routes -> Handler -> Answer -> send
       Upload     token -> form parts -> key -> permission -> locks.holding(key) -> driver.create -> commit -> 200
       Download   key -> locks.reading(key) -> driver.open -> preconditions.decide -> 200 206 304 412 416

    POST /upload, /v1/file     store file0, file1, ... under path        token
    POST /v1/archive           store the files of a tar archive          token
    GET  /<key>                an object: whole, ranges, conditional     public
    GET  /v1/list              the keys, one a line                      public
    GET  /v1/checkauth         whose token is this?                      token
    GET  /metrics              Prometheus                                public
    GET  /                     the banner

Chapters: refusals, answers, locks, the wire, bodies, the exchange, the server, drivers, answering with an object; these
know nothing of KernelCI, and other protocols import them. Then handlers, configuration, assembly, command line.

Marks: (UP-8) is a clause of the protocol, `RFC 9110 14.2:` a section of an RFC, `Upstream:` what kernelci-storage 0.2
does instead, `Measured:` the number behind a choice.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import itertools
import json
import os
import queue
import re
import secrets
import select
import shlex
import signal
import socket
import socketserver
import ssl
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from http import HTTPStatus
from http.server import HTTPServer
from pathlib import Path
from typing import (
    IO,
    Any,
    Callable,
    NamedTuple,
    NoReturn,
    Optional,
    Protocol,
    Union,
    runtime_checkable,
)
from urllib.parse import quote, unquote

from kcistorage_parts import archives, formdata, guards, heads, names, preconditions, tokens
from kcistorage_parts.challenge import CHALLENGE_HEADERS, CHALLENGE_PATH, FALLBACK_QUERY, Challenge
from kcistorage_parts.local import PRIVATE, LocalDriver, entity_tag, read_sidecar, sorted_names
from kcistorage_parts.logfmt import Log, quoted
from kcistorage_parts.metrics import Metrics
from kcistorage_parts.retention import Retention as Sweeper
from kcistorage_parts.scrub import Layout, Scrub
from kcistorage_parts.settings import NOT_SHOWN, ConfigError, secret, section, shown, wrong

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same parser under its older name
    import tomli as tomllib

__version__ = "0.1.0"

Headers = Sequence[tuple[str, str]]


# ---------------------------------------------------------------------------------------------------------------------
# Refusals: every answer that is not what the client asked for. The reason word goes to log and metrics, the text to
# the client. README documents each reason; a test collects them.
# ---------------------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """A request that is answered with `status`; `reason` is a unique word for operators, `text` one public line."""

    def __init__(self, status: int, reason: str, text: str, headers: Headers = ()) -> None:
        super().__init__(status, reason, text)
        self.status, self.reason, self.text, self.headers = status, reason, text, headers


Refusal = tuple[int, str, str]  # the arguments of a Refused that is raised later, perhaps


class Disconnected(Exception):
    """The peer is gone: nobody is left to answer. Logged as status 499, as nginx does."""


UNAUTHORIZED = (("WWW-Authenticate", "Bearer"),)

# What the storage may raise -> what the client is told. The text of a standard exception names our paths: never sent.
# The first line that matches wins.
KEY_CONFLICT: Refusal = (409, "key-conflict", "Path conflicts with an existing object")
OS_FAILURES: tuple[tuple[tuple[int, ...], Refusal], ...] = (
    ((errno.ENOSPC, errno.EDQUOT), (507, "no-space", "Insufficient Storage")),
    ((errno.EISDIR, errno.ENOTDIR, errno.EEXIST), KEY_CONFLICT),
    ((errno.ENAMETOOLONG,), (400, "key-too-long-here", "Path is too long for the storage of this server")),
    ((errno.EMFILE, errno.ENFILE, errno.ENOMEM), (503, "overloaded", "Server is out of resources")),
    ((errno.EBUSY,), (503, "backend-busy", "Storage backend is overloaded")),
    ((errno.ESTALE,), (503, "object-replaced", "Object was replaced meanwhile, try again")),
    ((errno.ENOLCK,), (503, "lease-lost", "Upload lost its lock, try again")),
)
UNREACHABLE: Refusal = (502, "backend-unreachable", "Storage backend cannot be reached")
SILENT: Refusal = (503, "backend-timeout", "Storage backend does not answer")
STORAGE_FAILED: Refusal = (503, "storage-failed", "Storage is unavailable")
INTERNAL_ERROR: Refusal = (500, "internal-error", "Internal Server Error")


def refusal(error: Exception) -> Refused:
    """The one table from exceptions to answers. What it does not know is a fault of ours: 500, with nothing said."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, heads.BadHead):
        return Refused(error.status, error.reason, error.text)
    if isinstance(error, (names.BadKey, formdata.BadForm)):
        return Refused(400, error.reason, error.text)
    if isinstance(error, archives.BadArchive):
        return Refused(413 if error.reason == "archive-too-large" else 400, error.reason, error.text)
    if isinstance(error, tokens.BadToken):
        return Refused(401, error.reason, error.text, UNAUTHORIZED)
    if isinstance(error, ConnectionError):  # to a back end: of clients, the wire says Disconnected
        return Refused(*UNREACHABLE)
    if isinstance(error, TimeoutError):
        return Refused(*SILENT)
    if isinstance(error, OSError):
        return Refused(*next((told for numbers, told in OS_FAILURES if error.errno in numbers), STORAGE_FAILED))
    return Refused(*INTERNAL_ERROR)


# ---------------------------------------------------------------------------------------------------------------------
# Answers: what a handler returns. A handler never writes to the socket, logs, counts or makes a status of an exception.
# ---------------------------------------------------------------------------------------------------------------------

Span = tuple[int, int]  # half open, in bytes
Pieces = Sequence[Union[bytes, Span]]


def body_length(pieces: Pieces) -> int:
    return sum(len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)


class FileBody:
    """Bytes of an open file, span by span, with literal bytes between them. Owns the descriptor."""

    def __init__(self, descriptor: int, pieces: Pieces) -> None:
        self.descriptor, self.pieces = descriptor, pieces
        self.length: Optional[int] = body_length(pieces)

    def close(self) -> None:
        os.close(self.descriptor)


class StreamBody:
    """Blocks from a generator; `length` in bytes, or None where nobody knows it before the end.

    The first block is fetched at once: a source that fails on it can still be answered with a refusal.
    """

    def __init__(self, blocks: Generator[bytes, None, None], length: Optional[int] = None) -> None:
        self._blocks, self.length = blocks, length
        self._first = next(blocks, b"")

    def __iter__(self) -> Iterator[bytes]:
        return itertools.chain((self._first,), self._blocks)

    def close(self) -> None:
        self._blocks.close()


class Answer(NamedTuple):
    """A response in full. Content-Length, Date, Server and Connection are added when it is sent."""

    status: int
    headers: Headers = ()
    body: Union[bytes, FileBody, StreamBody] = b""


PLAIN = ("Content-Type", "text/plain; charset=utf-8")
JSON = ("Content-Type", "application/json")
NOSNIFF = ("X-Content-Type-Options", "nosniff")


def plain(status: int, text: str, headers: Headers = ()) -> Answer:
    """A short text, as every refusal is: one line that no browser takes for a page."""
    return Answer(status, (PLAIN, NOSNIFF, *headers), text.encode())


def told_plainly(refused: Refused) -> Answer:
    return plain(refused.status, refused.text, refused.headers)


# ---------------------------------------------------------------------------------------------------------------------
# Locks: readers share a key, a writer has it alone (UP-9, DL-6)
# ---------------------------------------------------------------------------------------------------------------------


class KeyState:
    """Who holds one key and who waits for it, first come first served."""

    __slots__ = ("readers", "waiting", "writing")

    def __init__(self) -> None:
        self.readers = 0
        self.writing = False
        self.waiting: deque[object] = deque()

    def admits(self, shared: bool) -> bool:
        return not self.writing and (shared or not self.readers)

    def idle(self) -> bool:
        return not (self.writing or self.readers or self.waiting)


class Hold:
    """A key of a LockTable, held between the ends of a `with` block. Measured: a generator here takes 2 us more."""

    __slots__ = ("_key", "_otherwise", "_seconds", "_shared", "_table")

    def __init__(self, table: LockTable, key: str, shared: bool, seconds: float, otherwise: Refusal) -> None:
        self._table, self._key, self._shared = table, key, shared
        self._seconds, self._otherwise = seconds, otherwise

    def __enter__(self) -> None:
        self._table.acquire(self._key, self._shared, self._seconds, self._otherwise)

    def __exit__(self, *exception: object) -> None:
        self._table.release(self._key, self._shared)


class LockTable:
    """Shared and exclusive locks by key, for the threads of one process; any thread may call.

    One Condition guards the whole table: critical sections are a few dictionary operations. A waiter stands in line
    behind all who came before it for its key, so neither readers nor writers starve. An entry exists only while its
    key is held or awaited.
    """

    def __init__(self, waited: Callable[[float], None] = lambda seconds: None) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._keys: dict[str, KeyState] = {}
        self._waited = waited

    def __len__(self) -> int:
        return len(self._keys)

    def is_free(self, key: str) -> bool:
        """Whether nobody holds or awaits `key` at this moment."""
        return key not in self._keys

    def holding(self, key: str, seconds: float, otherwise: Refusal) -> Hold:
        """Has `key` alone inside a `with` block; refuses with `otherwise` when that takes longer than `seconds`."""
        return Hold(self, key, False, seconds, otherwise)

    def reading(self, key: str, seconds: float, otherwise: Refusal) -> Hold:
        """Shares `key` with other readers inside a `with` block; refuses with `otherwise` after `seconds`."""
        return Hold(self, key, True, seconds, otherwise)

    def acquire(self, key: str, shared: bool, seconds: float, otherwise: Refusal) -> None:
        with self._changed:
            state = self._keys.get(key)
            if state is None:
                state = self._keys[key] = KeyState()
            if (state.waiting or not state.admits(shared)) and not self._queue(state, shared, seconds):
                if state.idle():
                    del self._keys[key]
                raise Refused(*otherwise)
            if shared:
                state.readers += 1
            else:
                state.writing = True

    def _queue(self, state: KeyState, shared: bool, seconds: float) -> bool:
        turn, began = object(), time.monotonic()
        state.waiting.append(turn)
        try:
            return self._changed.wait_for(lambda: state.waiting[0] is turn and state.admits(shared), seconds)
        finally:
            state.waiting.remove(turn)
            self._changed.notify_all()  # who stood behind may be admitted now: one reader beside another
            self._waited(time.monotonic() - began)

    def release(self, key: str, shared: bool) -> None:
        with self._changed:
            state = self._keys[key]
            if shared:
                state.readers -= 1
            else:
                state.writing = False
            if state.waiting:
                self._changed.notify_all()
            elif state.idle():
                del self._keys[key]


# ---------------------------------------------------------------------------------------------------------------------
# The wire: the bytes of one connection, with deadlines
# ---------------------------------------------------------------------------------------------------------------------

HEAD_BYTES = 65_536
READ_BYTES = 262_144  # Measured: uploads gain nothing above it, and lose a fifth at 16 KiB
SMALL_BODY = 65_536  # head and body up to this size leave in one write: no Nagle, no second system call
MAX_CHUNK_LINE = 4_096  # a chunk's size with its extensions
MAX_SENDFILE = 1 << 30
LINGER_IDLE = 5.0  # seconds without a byte after which a refused client is taken to have read its answer
LINGER_TOTAL = 300.0  # seconds a refused upload is drained at most


class Limits(NamedTuple):
    """What one connection may take, in seconds."""

    head: float = 10.0
    body_idle: float = 60.0
    keep_alive: float = 30.0


LIMITS = Limits()


def bad_chunk() -> Refused:
    return Refused(400, "chunk-malformed", "Bad chunked body")


class TimedOut(Exception):
    """The peer was silent for longer than the wire's patience."""


def timeval(seconds: float) -> bytes:
    """As SO_RCVTIMEO and SO_SNDTIMEO take it."""
    return struct.pack("ll", *divmod(max(1, int(seconds * 1e6)), 1_000_000))  # 0 would be for ever


class Wire:
    """A connected socket with a read-ahead buffer. One thread at a time.

    Time-outs of plain sockets are the kernel's (SO_RCVTIMEO, SO_SNDTIMEO) and not Python's: a socket with a Python
    time-out is non-blocking, costs a poll(2) before each call and cannot sendfile(2) in one go. TLS sockets know only
    Python's, since OpenSSL takes the kernel's for a reason to try again.
    """

    def __init__(self, sock: socket.socket, limits: Limits = LIMITS) -> None:
        self.socket, self.limits = sock, limits
        self._buffer, self._at = b"", 0  # what was received, and how much of it is used up
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._patience = {socket.SO_RCVTIMEO: 0.0, socket.SO_SNDTIMEO: 0.0}  # seconds, as they are set
        self.idle_seconds = limits.head  # a new connection is opened to say something; later ones may rest
        self.waits = True  # whether `send` may wait for the peer; else it keeps what there is for `send_kept`
        self.kept = b""  # not sent yet

    def _be_patient(self, direction: int, seconds: float) -> None:
        if self._tls:
            self.socket.settimeout(max(0.001, seconds))  # 0 would be non-blocking
        elif self._patience[direction] != seconds:
            self.socket.setsockopt(socket.SOL_SOCKET, direction, timeval(seconds))
            self._patience[direction] = seconds

    def receive(self, most: int, seconds: float) -> bytes:
        """Up to `most` bytes; b"" at the end of the stream. Raises TimedOut after so many seconds of silence."""
        self._be_patient(socket.SO_RCVTIMEO, seconds)
        try:
            return self.socket.recv(most)
        except (BlockingIOError, socket.timeout):
            raise TimedOut from None
        except OSError as error:
            raise Disconnected from error

    def has_buffered(self) -> bool:
        return self._at < len(self._buffer)

    def read(self, most: int) -> bytes:
        """Body bytes, buffered ones first; never b"": a stream that ends inside a body is the client's fault."""
        if self.has_buffered():
            data = self._buffer[self._at : self._at + most]
            self._at += len(data)
            return data
        try:
            data = self.receive(most, self.limits.body_idle)
        except TimedOut:
            raise Refused(408, "body-timeout", "Timeout waiting for the request body") from None
        if not data:
            raise Refused(400, "body-truncated", "Request body ended early")
        return data

    def read_line(self, most: int) -> bytes:
        """A line of the chunked coding, of up to `most` bytes without its CRLF."""
        while (end := self._buffer.find(b"\r\n", self._at, self._at + most + 2)) < 0:
            rest = self._buffer[self._at : self._at + most + 2]
            if len(rest) == most + 2 or b"\n" in rest:
                raise bad_chunk()
            self._at = len(self._buffer)
            self._buffer, self._at = rest + self.read(READ_BYTES), 0
        line = self._buffer[self._at : end]
        self._at = end + 2
        return line

    def read_head(self) -> Optional[bytes]:
        """The next request head without its empty line; None when the peer ends or keeps silent between requests.

        A connection may idle for `limits.keep_alive` seconds; from the first byte a head has `limits.head` seconds.
        """
        received, seen, deadline = self._buffer[self._at :], 0, 0.0
        while (split := heads.take_head(received, seen)) is None:
            begun = received[:3].strip()  # RFC 9112 2.2: an empty line is as good as silence
            if begun and not deadline:
                deadline = time.monotonic() + self.limits.head
            try:
                data = self.receive(HEAD_BYTES, deadline - time.monotonic() if deadline else self.idle_seconds)
            except TimedOut:
                if begun:
                    raise Refused(408, "head-timeout", "Timeout waiting for the request head") from None
                return None
            if not data:
                return None
            seen = len(received)
            received += data
        head, self._buffer = split
        self._at, self.idle_seconds = 0, self.limits.keep_alive
        return head

    def glance(self) -> Optional[bytes]:
        """The next request head if all of it is here. Never waits; not for TLS. What came of it is kept."""
        try:
            received = self.socket.recv(HEAD_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Disconnected from error
        if not received:
            raise Disconnected
        self._buffer, self._at = self._buffer[self._at :] + received, 0
        split = heads.take_head(self._buffer)
        if split is None:
            return None
        head, self._buffer = split
        self.idle_seconds = self.limits.keep_alive
        return head

    def send(self, data: bytes) -> None:
        if not self.waits:
            self.kept += data
            return
        self._be_patient(socket.SO_SNDTIMEO, self.limits.body_idle)
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Disconnected from error

    def send_kept(self) -> bool:
        """Sends what `send` kept, without waiting; says whether all of it is out."""
        try:
            sent = self.socket.send(self.kept, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Disconnected from error
        self.kept = self.kept[sent:]
        return not self.kept

    def wait(self) -> None:
        """From now on `send` may wait, as it does first for what it kept."""
        self.waits = True
        kept, self.kept = self.kept, b""
        if kept:
            self.send(kept)

    @contextlib.contextmanager
    def corked(self) -> Iterator[None]:
        """Full segments only, until the end of the block. Measured: a large file leaves an eighth faster."""
        try:
            self._cork(1)
            yield
        finally:
            self._cork(0)

    def _cork(self, on: int) -> None:
        with contextlib.suppress(OSError, AttributeError):  # not TCP; not Linux
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)

    def send_file(self, descriptor: int, span: Span) -> Iterator[int]:
        """Sends a span of a file and yields the bytes of each step. An OSError is the file's own."""
        at, stop = span
        while at < stop:
            sent = (self._send_copy if self._tls else self._send_mapped)(descriptor, at, stop - at)
            if not sent:
                raise OSError(errno.EIO, "the file became shorter while it was sent")
            at += sent
            yield sent

    def _send_mapped(self, descriptor: int, at: int, size: int) -> int:
        self._be_patient(socket.SO_SNDTIMEO, self.limits.body_idle)
        try:
            return os.sendfile(self.socket.fileno(), descriptor, at, min(size, MAX_SENDFILE))
        except OSError as error:
            if error.errno == errno.EIO:
                raise
            raise Disconnected from error

    def _send_copy(self, descriptor: int, at: int, size: int) -> int:
        block = os.pread(descriptor, min(size, READ_BYTES), at)
        self.send(block)
        return len(block)

    def linger(self) -> None:
        """Ends our half, so that the peer can read the answer (UP-11): RFC 9112 9.6.

        A close(2) with unread bytes sends a reset, which wipes the answer out of the peer's receive buffer. So what
        still comes is read and thrown away until the peer ends, falls silent or exceeds its time.
        """
        deadline = time.monotonic() + LINGER_TOTAL
        with contextlib.suppress(OSError, Disconnected, TimedOut):
            self._take_leave()
            self.socket.shutdown(socket.SHUT_WR)
            self._tls = False  # shutdown unwraps: what comes is thrown away undeciphered
            self.socket.settimeout(None)
            while time.monotonic() < deadline and self.receive(READ_BYTES, LINGER_IDLE):
                continue

    def end_sending(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise Disconnected from error

    def discard(self) -> None:
        """Throws away what came, without waiting; raises Disconnected at the end of the stream."""
        with contextlib.suppress(BlockingIOError):
            if not self.socket.recv(READ_BYTES, socket.MSG_DONTWAIT):
                raise Disconnected

    def abort(self) -> None:
        """Ends with a reset, and without a leave: what was sent so far must not be taken for the whole."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self._take_leave()
        self.socket.close()

    def _take_leave(self) -> None:
        """RFC 9112 9.8: TLS tells the end from a cut. The close_notify of the peer is not waited for."""
        if isinstance(self.socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self.socket.settimeout(0)
                self.socket.unwrap()


# ---------------------------------------------------------------------------------------------------------------------
# The body of a request (RFC 9112 6 and 7)
# ---------------------------------------------------------------------------------------------------------------------

CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")


class Body:
    """A request's body, read as it arrives, with either framing. One thread."""

    received = 0  # bytes of content
    _limit: Optional[int] = None
    _broken = False  # after an error nobody can say where the next request begins

    def __init__(self, wire: Wire, length: Optional[int], awaits_continue: bool) -> None:
        self._wire = wire
        self.length = length
        self.done = length == 0
        self._rest = length or 0  # bytes to the end of the body or of the current chunk
        self.awaits_continue = awaits_continue and not self.done

    def limit(self, most: int) -> None:
        """Refuses a body of more than `most` bytes: at once where its length is declared, else when it is exceeded."""
        self._limit = most
        self._check_limit(self.length or 0)

    def _check_limit(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise Refused(413, "body-too-large", f"Request body is larger than {self._limit} bytes")

    def read(self, most: int) -> bytes:
        """Up to `most` bytes, b"" at the end. The first call tells a client that waits for it to go on."""
        try:
            return b"" if self.done else self._read(most)
        except BaseException:
            self._broken = True
            raise

    def _read(self, most: int) -> bytes:
        if self.awaits_continue:
            self.awaits_continue = False
            if not self._wire.has_buffered():  # RFC 9110 10.1.1: not needed when the body is coming already
                self._wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.length is None and not self._rest and not self._next_chunk():
            return b""
        data = self._wire.read(min(most, self._rest))
        self._rest -= len(data)
        self.received += len(data)
        if self.length is None:
            self._check_limit(self.received)
            if not self._rest:
                self._wire.read_line(0)
        else:
            self.done = not self._rest
        return data

    def _next_chunk(self) -> bool:
        match = CHUNK_SIZE.fullmatch(self._wire.read_line(MAX_CHUNK_LINE))
        if match is None:
            raise bad_chunk()
        self._rest = int(match[1], 16)
        if not self._rest:
            self._skip_trailers()
            self.done = True
        return not self.done

    def _skip_trailers(self) -> None:
        lines: list[str] = []
        while len(lines) <= heads.MAX_FIELDS and (line := self._wire.read_line(MAX_CHUNK_LINE)):
            lines.append(line.decode("latin-1"))
        heads.parse_fields(lines)  # so that a trailer section is read as strictly as a head

    def leaves_connection_usable(self) -> bool:
        """Whether what is unread is little and sure to come, so that `drain` may skip it for the next request."""
        if self._broken or self.awaits_continue:
            return False
        return self.done or (self.length is not None and self._rest <= READ_BYTES)

    def drain(self) -> bool:
        """Skips to the next request; says whether there can be one."""
        try:
            while not self.done:
                self.read(READ_BYTES)
        except (Refused, heads.BadHead):
            return False
        return True


# ---------------------------------------------------------------------------------------------------------------------
# The exchange: one request and its answer
# ---------------------------------------------------------------------------------------------------------------------

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
BODILESS = frozenset([204, 304])


@lru_cache(maxsize=4096)  # of clients that ask for one object, most get the same. Measured: 0.4 us, against 1.5 us
def field_lines(headers: tuple[tuple[str, str], ...]) -> str:
    """Headers as they are sent; raises ValueError where one would break out of its line."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if not lines.count("\n") == lines.count("\r") == len(headers):
        raise ValueError(f"line break in a header of {headers}")
    return lines


class Exchange:
    """One request, what a handler may ask of it, and the sending of its answer. One thread."""

    key = ""  # for the log, as the next two
    owner = ""
    state = ""
    unframed = False  # whether the answer ends where the connection does (RFC 9112 6.3)
    begun = False  # whether some of the answer is on the wire
    sent = 0  # bytes of the answer's body
    tell_refusal: Callable[[Refused], Answer] = staticmethod(told_plainly)  # a handler may set another form

    def __init__(self, wire: Wire, head: heads.Head, address: str) -> None:
        self.head, self.fields, self.method, self.path = head, head.fields, head.method, head.path
        self.address = address  # the client's, behind trusted proxies
        self.wire = wire
        self.keep_alive = heads.keeps_alive(head)
        self.body = Body(wire, heads.body_length(head), heads.expects_continue(head))

    def send(self, answer: Answer, common: str) -> None:
        """Sends head and body; `common` are the header lines that every answer of the moment has.

        Raises Disconnected when the peer leaves; any other error comes from the body's source. If the answer has
        `begun` by then, it has no proper end, and the connection is of no more use.
        """
        body = answer.body
        self.keep_alive = self.keep_alive and self.body.leaves_connection_usable()
        length = len(body) if isinstance(body, bytes) else body.length
        chunked = length is None and self.head.minor > 0
        self.unframed = length is None and not chunked
        self.keep_alive = self.keep_alive and not self.unframed
        head = self._head(answer, common, length, chunked)
        if self.method == "HEAD" or answer.status in BODILESS:
            self._begin(head)
        elif isinstance(body, bytes):
            self._begin(head + body)
            self.sent = len(body)
        elif isinstance(body, FileBody):
            self._send_file(head, body)
        else:
            self._send_stream(head, body, chunked)

    def _begin(self, data: bytes) -> None:
        self.begun = True
        self.wire.send(data)

    def _head(self, answer: Answer, common: str, length: Optional[int], chunked: bool) -> bytes:
        fields = field_lines(tuple(answer.headers))
        framing = ""
        if answer.status not in BODILESS:
            framing = "Transfer-Encoding: chunked\r\n" if chunked else ""
            if length is not None:
                framing = f"Content-Length: {length}\r\n"
        if not self.keep_alive:
            framing += "Connection: close\r\n"
        elif self.head.minor == 0:
            framing += "Connection: keep-alive\r\n"
        return f"{STATUS_LINES[answer.status]}{common}{fields}{framing}\r\n".encode()

    def _send_file(self, head: bytes, body: FileBody) -> None:
        if len(body.pieces) == 1 and isinstance(body.pieces[0], tuple) and (body.length or 0) <= SMALL_BODY:
            start, stop = body.pieces[0]
            data = os.pread(body.descriptor, stop - start, start)
            if len(data) < stop - start:
                raise OSError(errno.EIO, "the file became shorter before it was sent")
            self._begin(head + data)
            self.sent = len(data)
            return
        with self.wire.corked():
            self._begin(head)
            for piece in body.pieces:
                self._send_piece(body.descriptor, piece)

    def _send_piece(self, descriptor: int, piece: Union[bytes, Span]) -> None:
        if isinstance(piece, bytes):
            self.wire.send(piece)
            self.sent += len(piece)
        else:
            for sent in self.wire.send_file(descriptor, piece):
                self.sent += sent

    def _send_stream(self, head: bytes, body: StreamBody, chunked: bool) -> None:
        for block in body:
            if block:
                self._begin(head + (b"%x\r\n%b\r\n" % (len(block), block) if chunked else block))
                self.sent += len(block)
                head = b""
        if body.length is not None and self.sent != body.length:
            raise ValueError("a body of another length than announced")
        self._begin(head + (b"0\r\n\r\n" if chunked else b""))


class Handler(Protocol):
    """What serves a route. One instance serves all threads."""

    def respond(self, exchange: Exchange) -> Answer: ...


@runtime_checkable
class QuickHandler(Handler, Protocol):
    """A handler that can answer some requests without waiting: for a lock, a disk, the network, or the client."""

    def at_once(self, exchange: Exchange) -> Optional[Answer]:
        """The answer, its body in memory; None where `respond` shall give it. Of requests without a body."""


Gate = Callable[[Exchange], None]  # raises Refused, or lets pass
QUICK_METHODS = frozenset(["GET", "HEAD"])
KNOWN_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])


class Site:
    """Gates in their order, then the route table: path -> method -> handler; any other path goes to `otherwise`."""

    def __init__(
        self, gates: Sequence[Gate], routes: Mapping[str, Mapping[str, Handler]], otherwise: Mapping[str, Handler]
    ) -> None:
        self._gates, self._routes, self._otherwise = gates, routes, otherwise
        self._quick = {path: self._quick_one(methods) for path, methods in routes.items()}
        self._quick_otherwise = self._quick_one(otherwise)
        self.is_quick = self._quick_otherwise is not None  # whether most requests may take no waiting

    @staticmethod
    def _quick_one(methods: Mapping[str, Handler]) -> Optional[QuickHandler]:
        handler = methods.get("GET")
        return handler if isinstance(handler, QuickHandler) else None

    def respond(self, exchange: Exchange) -> Answer:
        for gate in self._gates:
            gate(exchange)
        methods = self._routes.get(exchange.path, self._otherwise)
        handler = methods.get("GET" if exchange.method == "HEAD" else exchange.method)
        if handler is None:
            self._refuse_method(exchange.method, methods)
        return handler.respond(exchange)

    def at_once(self, exchange: Exchange) -> Optional[Answer]:
        """What `respond` would give, for a GET or HEAD whose handler can tell without waiting; else None."""
        handler = self._quick.get(exchange.path, self._quick_otherwise)
        if handler is None or exchange.method not in QUICK_METHODS or not exchange.body.done:
            return None
        for gate in self._gates:
            gate(exchange)
        return handler.at_once(exchange)

    @staticmethod
    def _refuse_method(method: str, methods: Mapping[str, Handler]) -> NoReturn:
        if method not in KNOWN_METHODS:  # ST-2
            raise Refused(501, "method-unknown", "Method is not implemented")
        allowed = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
        raise Refused(405, "method-not-allowed", "Method is not allowed here", [("Allow", allowed)])


# ---------------------------------------------------------------------------------------------------------------------
# The server: a few threads wait at the door; connections rest together in the lobby, whose thread answers what takes no
# waiting; for everything else a connection has a thread of its own
# ---------------------------------------------------------------------------------------------------------------------

FRAMING = frozenset(["content-length", "transfer-encoding", "expect"])  # what a refused head may have got wrong
REFUSAL_SLOTS = 64  # connections above the cap that are still told 503; beyond them the door is just shut
Identify = Callable[[str, heads.Fields], str]  # peer address, request fields -> client address
Respond = Callable[[Exchange], Optional[Answer]]


def access_line(exchange: Exchange, status: int, reason: str, seconds: float) -> str:
    """What the log says of a request (LG-1)."""
    head = exchange.head
    text = (
        f'event=access ip="{exchange.address}" status={status} bytes={exchange.sent}'
        f" method={head.method} target={quoted(head.target)} path={quoted(exchange.key)} seconds={seconds:.4f}"
    )
    if exchange.owner:
        text += f" owner={quoted(exchange.owner)}"
    elif "user-agent" in exchange.fields:
        text += f" ua={quoted(exchange.fields['user-agent'])}"
    if exchange.state:
        text += f" state={exchange.state}"
    if exchange.body.received:
        text += f" received={exchange.body.received}"
    if reason:
        text += f" reason={reason}"
    return text


class Connection:
    """One connection: its requests one after the other. The lobby calls, or a thread of its own; never both."""

    def __init__(self, sock: socket.socket, client_address: Any, server: StorageServer) -> None:
        self.socket, self.server = sock, server
        self.peer: str = client_address[0] if client_address else ""
        self.wire = Wire(sock, server.limits)
        self.idle = False  # between two requests
        self._light = False  # whether its last request was one for the lobby
        self.deadline = 0.0  # of its rest in the lobby
        self._leaving = False  # whether the last answer is out
        self._turn: Callable[[], bool] = self._exchange  # what its own thread does first

    def rest(self) -> None:
        """Before it comes into the lobby."""
        self.idle, self.wire.waits = True, False
        self.deadline = time.monotonic() + self.wire.idle_seconds

    def wake(self) -> None:
        """In its own thread again."""
        self.idle = False
        self.wire.wait()

    def serve(self) -> None:
        """In its own thread: until the connection ends or comes to rest."""
        rests = False
        try:
            rests = self._converse()
        except (Disconnected, OSError) as error:
            self.lost(error)
        finally:
            if not rests:
                self.end()

    def lost(self, error: Exception) -> None:
        """A peer that left, or never spoke TLS, is no news; least of all one that had nothing to say any more."""
        if error.__cause__ is not None or not isinstance(error, Disconnected):
            self.server.log.debug("disconnect", ip=self.peer, error=type(error).__name__)

    def end(self) -> None:
        self.wire.close()
        self.server.leave(self)

    def _converse(self) -> bool:
        """Says whether the connection is in the lobby again; else it is over."""
        if self.server.tls is not None:
            self.wire = Wire(self._secured(self.server.tls), self.server.limits)
        self.wake()
        while self._turn():
            self._turn = self._exchange
            if self._light and not self.wire.has_buffered() and self.server.lobby.admit(self):
                return True
        return False

    def _secured(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """The socket after the TLS handshake: not in the accept loop, which it would stall."""
        self.socket.settimeout(self.server.limits.head)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.socket.settimeout(None)
        return self.socket

    def refuse_entry(self) -> None:
        """Makes its first turn the last one."""
        crowded = Refused(503, "too-many-connections", "Too many connections", [("Retry-After", "1")])
        self._turn = partial(self._refuse_head, crowded)

    def attend(self) -> bool:
        """In the lobby, when something came: does what takes no waiting. Says whether the connection may stay there.

        Any answer is left for `hand_over`. Raises Disconnected when the connection is over.
        """
        if self._leaving:
            self.wire.discard()
            return True
        try:
            raw = self.wire.glance()
        except heads.BadHead:
            return False
        if raw is None:
            return not self.wire.has_buffered()
        if not self._answer_at_once(raw):
            self._turn = partial(self._exchange, raw)
            self.idle = False  # from now on, and not from its thread's start: `stop` would cut the body off
            return False
        return True

    def hand_over(self) -> bool:
        """In the lobby, after `attend`: sends what there is. Says whether the connection may stay there."""
        if self.wire.kept and not self.wire.send_kept():
            return False
        if self._leaving:
            self.wire.end_sending()
        return self._leaving or not self.wire.has_buffered()

    def _answer_at_once(self, raw: bytes) -> bool:
        """Whether the request could be answered here and now."""
        try:
            exchange = self._open(heads.parse_head(raw))
        except (Refused, heads.BadHead):
            return False
        began = time.monotonic()
        answer, reason = self._respond(self.server.site.at_once, exchange)
        if answer is None:
            return False
        self._finish(exchange, answer, reason, began)
        self.deadline = began + self.wire.limits.keep_alive
        if not exchange.keep_alive:  # as Wire.linger, but there is no body that would be worth a long wait
            self._leaving, self.deadline, self._turn = True, began + LINGER_IDLE, self._linger
        return True

    def _linger(self) -> bool:
        self.wire.linger()
        return False

    def _open(self, head: heads.Head) -> Exchange:
        return Exchange(self.wire, head, self.server.identify(self.peer, head.fields))

    def _exchange(self, raw: Optional[bytes] = None) -> bool:
        """Serves one request, whose head may be here already; says whether another may follow."""
        head, asked = heads.NO_HEAD, raw is not None
        try:
            raw = raw or self._await_head()
            if raw is None:
                return False
            head = heads.parse_head(raw)
            exchange = self._open(head)
        except (Refused, heads.BadHead) as error:
            return self._refuse_head(refusal(error), head)
        return self._serve(exchange, asked)

    def _await_head(self) -> Optional[bytes]:
        self.idle = True
        try:
            return None if self.server.stopping else self.wire.read_head()
        finally:
            self.idle = False

    def _refuse_head(self, refused: Refused, head: heads.Head = heads.NO_HEAD) -> bool:
        """Answers what could not become an exchange, and ends the connection."""
        told = {name: value for name, value in head.fields.items() if name not in FRAMING}
        exchange = self._open(head._replace(fields={**told, "connection": "close"}))
        if self._finish(exchange, told_plainly(refused), refused.reason, time.monotonic()):
            self.wire.linger()
        return False

    def _serve(self, exchange: Exchange, asked: bool) -> bool:
        """`asked`: the lobby was, whether it can be answered at once, and could not."""
        began = time.monotonic()
        try:
            answer, reason = (None, "") if asked else self._respond(self.server.site.at_once, exchange)
            self._light = answer is not None and self.server.tls is None
            if answer is None:
                answer, reason = self._respond(self.server.site.respond, exchange)
        except Disconnected:
            self._record(exchange, 499, "client-gone", began)
            return False
        assert answer is not None
        if not self._finish(exchange, answer, reason, began):
            return False
        if not exchange.keep_alive:
            self.wire.linger()
            return False
        return exchange.body.drain()

    def _respond(self, respond: Respond, exchange: Exchange) -> tuple[Optional[Answer], str]:
        """The answer, and the reason if it is a refusal."""
        try:
            return respond(exchange), ""
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001  # the one place where errors become answers
            refused = refusal(error)
            self._report(error, refused, exchange)
            return exchange.tell_refusal(refused), refused.reason

    def _finish(self, exchange: Exchange, answer: Answer, reason: str, began: float) -> bool:
        """Sends and records; says whether the answer went out whole."""
        exchange.keep_alive = exchange.keep_alive and not self.server.stopping
        whole, status, reason = self._send(exchange, answer, reason)
        self._record(exchange, status, reason, began)
        return whole

    def _send(self, exchange: Exchange, answer: Answer, reason: str) -> tuple[bool, int, str]:
        """Whether the answer went out whole, its status, and the reason if it is a refusal."""
        try:
            exchange.send(answer, self.server.common_headers())
        except Disconnected:
            return False, answer.status, reason or "client-gone"
        except Exception as error:  # noqa: BLE001  # of the body's source
            refused = refusal(error)
            self._report(error, refused, exchange)
            if exchange.begun:
                if exchange.unframed:
                    self.wire.abort()
                return False, answer.status, reason or "answer-broken"
            return self._send(exchange, exchange.tell_refusal(refused), refused.reason)
        finally:
            if not isinstance(answer.body, bytes):
                answer.body.close()
        return True, answer.status, reason

    def _report(self, error: Exception, refused: Refused, exchange: Exchange) -> None:
        """What an operator must see in full, and a client must not: faults of the storage and of ours."""
        if refused.status >= 500 and not isinstance(error, Refused):
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self.server.log.event("error", reason=refused.reason, target=exchange.head.target, trace=trace)

    def _record(self, exchange: Exchange, status: int, reason: str, began: float) -> None:
        """LG-1 and MT-1: one line, one tick."""
        seconds = time.monotonic() - began
        received, sent = exchange.body.received, exchange.sent
        self.server.log.write(partial(access_line, exchange, status, reason, seconds))
        self.server.metrics.answered(exchange.method, status, reason, received, sent, seconds, exchange.state)


ROUND = 32  # connections that the lobby attends to before it hands over the first answer


class Lobby(threading.Thread):
    """Where connections rest: one thread watches all of them, and answers what is asked for if that takes no waiting.

    Measured: 16 connections that ask for 4 KiB objects are served three times as fast as by a thread each, which hand
    the GIL around four times a request. A quarter of that is due to answers that leave together: one wakes the clients,
    the others find them awake. Where there is no epoll(7) nobody is admitted, and each connection keeps its thread.
    """

    def __init__(self, server: StorageServer) -> None:
        super().__init__(name="lobby", daemon=True)
        self._server = server
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._resting: dict[int, Connection] = {}  # by descriptor
        self._door = threading.Lock()  # so that nobody comes in after the last one has gone
        self._tick = min(1.0, server.limits.head / 4, server.limits.keep_alive / 4)  # seconds a rest may be too long
        self._next_look = 0.0

    def admit(self, connection: Connection) -> bool:
        """Takes a connection in, from any thread; says whether it did."""
        with self._door:
            if self._server.stopping or self._epoll is None:
                return False
            connection.rest()
            descriptor = connection.socket.fileno()
            self._resting[descriptor] = connection
            try:
                self._epoll.register(descriptor, select.EPOLLIN)
            except OSError:  # no room for one more: /proc/sys/fs/epoll/max_user_watches
                del self._resting[descriptor]
                connection.wake()
                return False
            return True

    def run(self) -> None:
        while self._epoll is not None and not self._is_over():
            awake = [self._resting[descriptor] for descriptor, _ in self._epoll.poll(self._tick, ROUND)]
            for connection in [one for one in awake if self._do(one, one.attend)]:
                self._do(connection, connection.hand_over)
            self._dismiss_sleepers()
        if self._epoll is not None:
            self._epoll.close()

    def _is_over(self) -> bool:
        with self._door:
            return self._server.stopping and not self._resting

    def _do(self, connection: Connection, step: Callable[[], bool]) -> bool:
        """Takes a step with a connection; says whether it stays."""
        try:
            if step():
                return True
            self._server.employ(self._dismiss(connection))
        except (Disconnected, OSError) as error:
            connection.lost(error)
            self._dismiss(connection).end()
        except Exception:  # noqa: BLE001  # a fault of ours costs one connection, not all that rest here
            self._dismiss(connection).end()
            self._server.handle_error(connection, None)
        return False

    def _dismiss(self, connection: Connection) -> Connection:
        assert self._epoll is not None
        descriptor = connection.socket.fileno()
        if self._resting.pop(descriptor, None) is not None:  # else it was on its way to a thread when that failed
            self._epoll.unregister(descriptor)
        return connection

    def _dismiss_sleepers(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self._tick
        for connection in list(self._resting.values()):
            if self._server.stopping or connection.deadline < now:
                self._dismiss(connection).end()


Chores = Sequence[Callable[[], None]]


class Housekeeper(threading.Thread):
    """What the storage wants done now and then, in a thread of its own: some of it once, the rest every so often."""

    def __init__(self, log: Log, seconds: float = 300.0) -> None:
        super().__init__(name="housekeeper", daemon=True)
        self._log, self._seconds = log, seconds
        self._at_start: Chores = ()
        self._chores: Chores = ()
        self._stopping = threading.Event()
        self.is_stopping = self._stopping.is_set  # a chore that takes long asks

    def undertake(self, at_start: Chores, chores: Chores) -> None:
        """Before `start`."""
        self._at_start, self._chores = at_start, chores

    def run(self) -> None:
        self._do(self._at_start)
        while self._chores and not self._stopping.is_set():
            self._do(self._chores)
            self._stopping.wait(self._seconds)

    def _do(self, chores: Chores) -> None:
        for chore in chores:
            try:
                chore()
            except Exception:  # noqa: BLE001  # the next time it may work, and the other chores are none the worse
                self._log.event("error", reason="housekeeping-failed", trace=traceback.format_exc())

    def stop(self) -> None:
        self._stopping.set()
        if self.is_alive():
            self.join(1.0)


MOST_IDLE_THREADS = 8
IDLE_THREAD_SECONDS = 10.0
MOST_AT_DOOR = 4  # threads that wait for connections: who gets one need not wake another first

Job = Callable[[], object]  # which raises nothing


class Crew:
    """Threads for what takes one: a thread that has just become idle, or else a new one. Any thread may call.

    Measured: to wake a thread takes 0.1 ms less than to make one, whose maker waits until it runs.
    """

    def __init__(self) -> None:
        self._handed: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._idle = 0  # threads that wait for `_handed` and will find nothing there
        self._lock = threading.Lock()  # of the line above

    def employ(self, job: Job) -> None:
        """Raises RuntimeError or MemoryError where there is no thread to be had."""
        with self._lock:
            awaited = self._idle > 0
            self._idle -= awaited
        if awaited:
            self._handed.put(job)
        else:
            threading.Thread(target=self._work, args=(job,), name="connection", daemon=True).start()

    def _work(self, job: Optional[Job]) -> None:
        while job is not None:
            job()
            job = self._next()

    def _next(self) -> Optional[Job]:
        with self._lock:
            if self._idle >= MOST_IDLE_THREADS:
                return None
            self._idle += 1
        with contextlib.suppress(queue.Empty):
            return self._handed.get(timeout=IDLE_THREAD_SECONDS)
        with self._lock:
            gone = self._idle > 0
            self._idle -= gone
        return None if gone else self._handed.get()  # else somebody counted on us


class StorageServer(HTTPServer):
    """Accepts connections and ends in good order. It knows HTTP; what is served is the Site's business.

    `serve_forever` runs in one thread, `stop` may be called from any other. Threads of the crew wait at the door, of
    which the kernel wakes one for each connection. It serves it, if that takes a thread, and comes back. Measured: the
    first byte of an answer leaves 0.1 ms sooner than where a thread that accepts has to wake another one to serve, and
    0.1 ms sooner again than where the one that serves has to wake another one to accept.
    """

    request_queue_size = 1024  # http.server listens with 5, which a build farm overruns

    def __init__(
        self,
        address: tuple[str, int],
        site: Site,
        log: Log,
        metrics: Metrics,
        identify: Identify = lambda peer, fields: peer,
        tls: Optional[ssl.SSLContext] = None,
        limits: Limits = LIMITS,
        max_connections: int = 1000,
        housekeeper: Optional[Housekeeper] = None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.site, self.log, self.metrics, self.identify = site, log, metrics, identify
        self.tls, self.limits, self.max_connections = tls, limits, max_connections
        if tls is not None:  # `stop` ends the reading half of idle connections: no error, and no alert to the client
            tls.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # which OpenSSL before 3 does not have
        self._housekeeper, self._at_end = housekeeper, at_end
        self.stopping = False
        self._open: set[Connection] = set()
        self._changed = threading.Condition()
        self._common = (0, "")
        self.lobby, self._crew = Lobby(self), Crew()
        self._at_door = 0  # threads
        self._pausing = threading.Lock()
        self._closed = threading.Event()  # nobody is at the door any more
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, Connection)  # type: ignore[arg-type]  # called in `_place`

    def server_bind(self) -> None:
        """As socketserver does it: http.server adds a reverse DNS look-up, which can hang the start."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    @property
    def connections(self) -> int:
        return len(self._open)

    def common_headers(self) -> str:
        """The header lines of every answer, made once a second (RFC 9110 6.6.1)."""
        now = int(time.time())
        if self._common[0] != now:
            self._common = now, f"Date: {preconditions.http_date(now)}\r\nServer: kcistorage/{__version__}\r\n"
        return self._common[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                with self._pausing:  # connections still wait to be accepted: without pauses this would spin
                    self.log.event("accept-failed", error=os.strerror(error.errno))
                    time.sleep(0.1)
            raise

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Until `stop`, which takes `poll_interval` seconds to be seen where shutdown(2) does not end an accept(2)."""
        self.lobby.start()
        if self._housekeeper is not None:
            self._housekeeper.start()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval(poll_interval))
        self._crew.employ(self._watch)
        self._closed.wait()

    def _watch(self) -> None:
        """In a thread of the crew: lets connections in, and serves those that need it, until others are at the door."""
        while self._come_to_door():
            try:
                connection = self._next_visitor()
            except BaseException:  # a fault of ours: better no server than a deaf one
                self._shut_door()
                self._leave_door()
                raise
            if connection is None:
                self._leave_door()
                return
            self._serve(connection)

    def _come_to_door(self) -> bool:
        with self._changed:
            needed = self._at_door < MOST_AT_DOOR
            self._at_door += needed
            return needed

    def _leave_door(self) -> bool:
        """Says whether somebody else is there. If not, and it is shut, this is the end."""
        with self._changed:
            self._at_door -= 1
            deserted = not self._at_door
        if deserted and self.stopping:
            self.server_close()
            self._closed.set()
        return not deserted

    def _shut_door(self) -> None:
        self.stopping = True
        with contextlib.suppress(OSError):  # where that cannot be done to a socket that listens
            self.socket.shutdown(socket.SHUT_RDWR)

    def _next_visitor(self) -> Optional[Connection]:
        """Somebody who needs this thread, which has left the door then; None at the end."""
        while not self.stopping:
            connection = self._let_in()
            if connection is None:
                continue
            if self._leave_door() or self._delegate(self._watch, connection):
                return connection
            with self._changed:
                self._at_door += 1
        return None

    def _let_in(self) -> Optional[Connection]:
        """Waits for a connection, and gives one that needs a thread."""
        try:
            sock, address = self.get_request()
        except OSError:
            return None
        try:
            return self._place(sock, address)
        except Exception:  # noqa: BLE001  # whatever it is: the door stays open
            self.handle_error(sock, address)
            self.shutdown_request(sock)
            return None

    def _place(self, sock: socket.socket, address: Any) -> Optional[Connection]:
        """In the lobby, if possible. Gives back who needs a thread: for a handshake, a refusal, or what has to wait."""
        if self.connections >= self.max_connections + REFUSAL_SLOTS:
            self.close_request(sock)
            return None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock, address, self)
        crowded = self._count_in(connection)
        if crowded:
            connection.refuse_entry()
        rests = not crowded and self.tls is None and self.site.is_quick and self.lobby.admit(connection)
        return None if rests else connection

    def employ(self, connection: Connection) -> None:
        """Gives a connection a thread of its own."""
        self._delegate(partial(self._serve, connection), connection)

    def _delegate(self, job: Job, connection: Connection) -> bool:
        """Whether a thread could be had for a job; where not, that costs the connection."""
        try:
            self._crew.employ(job)
        except (RuntimeError, MemoryError):
            connection.end()
            self.handle_error(connection, None)
            return False
        return True

    def _serve(self, connection: Connection) -> None:
        try:
            connection.serve()
        except Exception:  # noqa: BLE001  # outside of any request: the thread has others to serve
            self.handle_error(connection, None)

    def _count_in(self, connection: Connection) -> bool:
        """Counts a connection in; says whether it is one too many."""
        with self._changed:
            self._open.add(connection)
            return self.connections > self.max_connections

    def leave(self, connection: Connection) -> None:
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A fault of ours outside any request: one line instead of socketserver's print to stderr."""
        self.log.event("error", reason="connection-failed", trace=traceback.format_exc())

    def stop(self, seconds: float = 30.0) -> bool:
        """CF-3: stops accepting, ends idle connections, lets running requests end; says whether all did in time."""
        self._shut_door()
        self._closed.wait()
        with self._changed:
            for connection in self._open:
                if connection.idle:
                    with contextlib.suppress(OSError):  # it may have gone by itself
                        socket.socket.shutdown(connection.socket, socket.SHUT_RD)  # not SSLSocket's, which unwraps
            in_time = self._changed.wait_for(lambda: not self._open, seconds)
        if self._housekeeper is not None:
            self._housekeeper.stop()
        self._at_end()
        return in_time


# ---------------------------------------------------------------------------------------------------------------------
# Drivers: where objects live
# ---------------------------------------------------------------------------------------------------------------------


Tags = Sequence[tuple[str, str]]


class Found(Protocol):
    """An object opened for reading: these bytes, whatever is uploaded later (DL-6).

    The driver has them in memory as `content`, or in a file with a `descriptor`, or else gives them as `blocks` while
    they arrive. Who has taken what it needs calls `close`; a descriptor may be closed instead.
    """

    @property
    def descriptor(self) -> int: ...
    @property
    def content(self) -> Optional[bytes]: ...
    @property
    def size(self) -> int: ...  # bytes
    @property
    def etag(self) -> str: ...  # strong, with its quotes; another one after every overwrite
    @property
    def modified(self) -> int: ...  # seconds since the epoch
    @property
    def content_type(self) -> str: ...  # as stored; "" where nobody said
    @property
    def state(self) -> str: ...  # cached | uncached

    def blocks(self, start: int, stop: int) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class Incoming(Protocol):
    """An object on its way in. `write` as often as needed, then `commit` at most once. One thread."""

    def write(self, data: bytes) -> None: ...

    def commit(self, key: str, content_type: str, tags: Tags) -> str:
        """Makes the object visible, at once and whole; it is on stable storage when this returns its ETag."""


class Driver(Protocol):
    """Objects by key. Any thread may call; who commits holds the key's lock.

    Errors are OSErrors, and the request path knows what to make of them: ENOSPC is a full storage, EISDIR and ENOTDIR a
    key that needs an object as a folder or the reverse, ConnectionError and TimeoutError come from a back end.
    """

    def open(self, key: str, bodiless: bool = False, start: int = 0) -> Optional[Found]:
        """The object, or None where there is none. `bodiless`: for its head; none of its bytes will be asked for.

        `start` is a hint: the first byte that will be asked for, if the object has it.
        """

    def create(
        self, key: Optional[str], content_type: str = "", tags: Tags = ()
    ) -> contextlib.AbstractContextManager[Incoming]:
        """A new object; leaving the block without a commit leaves no trace. `key` is None while it is not known yet.

        What is known here, the commit gets once more.
        """

    def lease(self, key: str, seconds: float) -> contextlib.AbstractContextManager[bool]:
        """Keeps other servers from writing the key inside the block; false where one has it for `seconds` yet."""

    def together(self, sizes: Mapping[str, int]) -> contextlib.AbstractContextManager[None]:
        """Tells that inside the block these keys, of so many bytes, will be stored: what can be asked once, is."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with `prefix`, sorted by bytes, in bounded memory."""

    def close(self) -> None:
        """Ends what goes on in the background. Nothing else is called any more."""


@runtime_checkable
class QuickDriver(Driver, Protocol):
    """A driver that keeps some objects in memory."""

    def at_hand(self, key: str) -> Optional[Found]:
        """The object if it is in memory and known to be current; never waits for a disk or a network."""


# ---------------------------------------------------------------------------------------------------------------------
# Answering with an object: preconditions, then ranges (RFC 9110 13.2.2, 14)
# ---------------------------------------------------------------------------------------------------------------------


def failed(status: int, size: int) -> Refused:
    if status == 412:
        return Refused(412, "precondition-failed", "Precondition Failed")
    ranges = [("Content-Range", preconditions.unsatisfied_range(size)), ("Accept-Ranges", "bytes")]
    return Refused(416, "range-unsatisfiable", "Range Not Satisfiable", ranges)


def streamed(found: Found, pieces: Pieces) -> Generator[bytes, None, None]:
    with contextlib.closing(found):
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                yield from found.blocks(*piece)


def object_body(found: Found, pieces: Pieces) -> Union[bytes, FileBody, StreamBody]:
    """Spans of an object, with literal bytes between them. Takes over what is open."""
    if found.content is not None:
        if pieces[0] == (0, found.size):
            return found.content
        return b"".join([piece if isinstance(piece, bytes) else found.content[slice(*piece)] for piece in pieces])
    if found.descriptor >= 0:
        return FileBody(found.descriptor, pieces)
    return StreamBody(streamed(found, pieces), body_length(pieces))


def answer_ranges(found: Found, content_type: str, spans: Sequence[Span], headers: Headers) -> Answer:
    """Several ranges: multipart/byteranges (RFC 9110 14.6)."""
    boundary = secrets.token_hex(16)
    parts, end, _ = preconditions.multipart_ranges(spans, found.size, content_type, boundary)
    pieces: Pieces = [piece for part in parts for piece in (part.head, part.span)]
    told = [("Content-Type", f"multipart/byteranges; boundary={boundary}"), ("Accept-Ranges", "bytes"), *headers]
    return Answer(206, told, object_body(found, [*pieces, end]))


@lru_cache(maxsize=4096)  # Measured: 0.4 us, against 2 us
def object_headers(content_type: str, etag: str, modified: int, others: Headers) -> Headers:
    told = (("Content-Type", content_type), ("Accept-Ranges", "bytes"), ("ETag", etag))
    return (*told, ("Last-Modified", preconditions.http_date(modified)), *others)


def answer_object(exchange: Exchange, found: Found, content_type: str, headers: Headers) -> Answer:
    """The answer to a GET or HEAD of an object (DL-4, DL-5). Takes over what is open."""
    told = object_headers(content_type, found.etag, found.modified, headers)
    if preconditions.absent(exchange.fields):
        return Answer(200, told, object_body(found, [(0, found.size)]))
    what = preconditions.Representation(found.size, found.etag, found.modified)
    decision = preconditions.decide(exchange.method, exchange.fields, what)
    validators = [header for header in told if header[0] in ("ETag", "Last-Modified")]
    lasting = [header for header in headers if header[0] == "Cache-Control"]  # RFC 9110 15.4.5: in a 304 too
    if not decision.spans:
        found.close()
        if decision.status == 304:
            return Answer(304, [*validators, *lasting])
        raise failed(decision.status, found.size)
    if len(decision.spans) > 1:
        return answer_ranges(found, content_type, decision.spans, [*validators, *headers])
    if decision.status == 206:
        told = (*told, ("Content-Range", preconditions.content_range(decision.spans[0], found.size)))
    return Answer(decision.status, told, object_body(found, decision.spans))


# ---------------------------------------------------------------------------------------------------------------------
# Handlers: KernelCI begins here
# ---------------------------------------------------------------------------------------------------------------------


class Constant:
    """A route with one answer: banner, robots.txt, favicon (ST-1, ST-3)."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def respond(self, exchange: Exchange) -> Answer:
        return self._answer

    at_once = respond


class Credentials:
    """Who may do what (AU-1 to AU-6). Any thread."""

    def __init__(self, keys: Sequence[str], users: Sequence[tokens.User], enforce_expiry: bool) -> None:
        self._keys, self._users, self._enforce_expiry = keys, users, enforce_expiry

    def owner(self, exchange: Exchange) -> str:
        """The e-mail of the token's user; raises BadToken."""
        token = tokens.bearer(exchange.fields.get("authorization"))
        exchange.owner = tokens.verify(token, self._keys, time.time(), self._enforce_expiry)
        return exchange.owner

    def permit(self, email: str, key: str, path: str) -> None:
        if not tokens.may_upload(email, key, self._users):
            text = f"User {email} has no upload permissions for path {path or key}"
            raise Refused(403, "not-permitted", text)


class CheckAuth:
    """AU-4: whose token is this?"""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def respond(self, exchange: Exchange) -> Answer:
        return plain(200, f"Authorized: {self._credentials.owner(exchange)}", [("Cache-Control", "no-store")])


UPLOAD_WAITED: Refusal = (409, "upload-locked", "Timeout waiting for upload")


class Store(NamedTuple):
    """What uploads of all kinds share."""

    driver: Driver
    locks: LockTable
    credentials: Credentials
    reserved: frozenset[str]  # keys that no object may have; with a slash at the end, folders
    tags: Tags = ()  # that each object gets beside its owner
    most: int = 4 << 30  # bytes of one object
    wait_seconds: float = 30.0  # for another upload of the same key


def told_type(exchange: Exchange) -> str:
    """UP-6: what the uploader says the files are."""
    told = exchange.fields.get("content-type-upstream", "")
    if told and not names.valid_media_type(told):
        raise Refused(400, "media-type-malformed", "Content-Type-Upstream is not a media type")
    return told


class Writer:
    """What one request writes, on behalf of its user. Locks and unfinished objects are let go with `held`."""

    def __init__(self, store: Store, exchange: Exchange, held: contextlib.ExitStack, told_type: str = "") -> None:
        self._store, self._exchange, self._held = store, exchange, held
        self._told_type = told_type
        self.most = store.most

    def key(self, path: str, filename: str) -> str:
        """The key of a file that the user may write (UP-3, UP-4, AU-6)."""
        key = names.storage_key(path, filename, self._store.reserved)
        self._exchange.key = self._exchange.key or key
        self._store.credentials.permit(self._exchange.owner, key, path)
        return key

    def hold(self, key: str) -> None:
        """Keeps others from reading and writing the key from now on, and other servers from writing it (UP-9)."""
        began = time.monotonic()
        self._held.enter_context(self._store.locks.holding(key, self._store.wait_seconds, UPLOAD_WAITED))
        rest = self._store.wait_seconds - (time.monotonic() - began)
        if not self._held.enter_context(self._store.driver.lease(key, rest)):
            raise Refused(*UPLOAD_WAITED)

    def create(self, key: Optional[str]) -> Incoming:
        """A new object; `key` is None while it is not known yet."""
        label = (None,) if key is None else self._label(key)
        return self._held.enter_context(self._store.driver.create(*label))

    def commit(self, incoming: Incoming, key: str) -> str:
        """Makes the object visible (UP-8); gives its ETag."""
        return incoming.commit(*self._label(key))

    def _label(self, key: str) -> tuple[str, str, Tags]:
        """How an object is stored (UP-6, UP-12)."""
        content_type = self._told_type or names.content_type(key)
        return key, content_type, [("owner", self._exchange.owner), *self._store.tags]


Events = Iterator[Union[formdata.Part, bytes, None]]


def part_blocks(events: Events) -> Iterator[bytes]:
    """The content of the part that has just begun."""
    while isinstance(event := next(events), bytes):
        yield event


class FormPath:
    """The path field of a form, which comes before the files or after them, once (UP-2, UP-3)."""

    MOST = 4_096  # bytes; a key has 1,024 at most, and slashes do not count

    def __init__(self) -> None:
        self.text: Optional[str] = None  # None until it is known

    def take(self, blocks: Iterator[bytes]) -> None:
        if self.text is not None:
            raise Refused(400, "path-repeated", "More than one path field in upload")
        path = bytearray()
        for block in blocks:
            path += block
            if len(path) > self.MOST:
                raise Refused(400, "path-too-long", f"The path field is longer than {self.MOST} bytes")
        try:
            self.text = path.decode()
        except UnicodeDecodeError:
            raise Refused(400, "path-not-utf8", "The path field is not UTF-8") from None


NO_FILENAME: Refusal = (400, "no-filename", "No filename provided")


class UploadedFile:
    """One file of a form, on its way in. `key` is "" until the path is known."""

    def __init__(self, field: str, filename: str, key: str, incoming: Incoming) -> None:
        self.field, self.filename, self.key, self.incoming = field, filename, key, incoming

    def take(self, blocks: Iterator[bytes], most: int) -> None:
        rest = most
        for block in blocks:
            rest -= len(block)
            if rest < 0:
                raise Refused(413, "file-too-large", f"A file of this upload is larger than {most} bytes")
            self.incoming.write(block)


class UploadForm:
    """The fields of one upload as they arrive, in any order (UP-2, UP-3, UP-5).

    Keys are checked and held as early as the order of the fields allows: a refusal then costs the client little.
    """

    MAX_FILES = 100  # each has an open descriptor
    FILE_FIELD = re.compile(r"file[0-9]+")

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._path = FormPath()
        self._files: list[UploadedFile] = []

    def take(self, events: Events) -> None:
        for event in events:  # among them the content of fields that mean nothing here
            if isinstance(event, formdata.Part) and event.name == "path":
                self._path.take(part_blocks(events))
                self._resolve()
            elif isinstance(event, formdata.Part) and self.FILE_FIELD.fullmatch(event.name):
                self._take_file(event, part_blocks(events))

    def _take_file(self, part: formdata.Part, blocks: Iterator[bytes]) -> None:
        if not part.filename:
            raise Refused(*NO_FILENAME)
        if len(self._files) >= self.MAX_FILES:
            raise Refused(400, "too-many-files", f"More than {self.MAX_FILES} files in one upload")
        key = "" if self._path.text is None else self._admit(part.filename)
        self._files.append(UploadedFile(part.name, part.filename, key, self._writer.create(key or None)))
        self._files[-1].take(blocks, self._writer.most)

    def _resolve(self) -> None:
        """Keys for the files that came before the path."""
        for file in self._files:
            file.key = file.key or self._admit(file.filename)

    def _admit(self, filename: str) -> str:
        key = self._writer.key(self._path.text or "", filename)
        for file in self._files:
            if file.key == key:
                raise Refused(400, "key-repeated", "Two files of this upload have the same path")
            if file.key and (f"{file.key}/".startswith(f"{key}/") or f"{key}/".startswith(f"{file.key}/")):
                raise Refused(*KEY_CONFLICT)
        self._writer.hold(key)
        return key

    def complete(self) -> list[UploadedFile]:
        """All files, each with its key. The form has ended; a path that did not come is an empty one."""
        if not any(file.field == "file0" for file in self._files):
            raise Refused(400, "no-file0", "No file0 field in upload")
        self._resolve()
        return self._files


FORM_OVERHEAD = 1 << 20  # bytes of boundaries, part heads and small fields that a form may add to the largest file


class Upload:
    """POST /upload, /v1/file (UP-1 to UP-12): a form in, objects stored, all or nothing of each."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def respond(self, exchange: Exchange) -> Answer:
        self._store.credentials.owner(exchange)
        boundary = formdata.boundary(exchange.fields.get("content-type", ""))
        exchange.body.limit(self._store.most + FORM_OVERHEAD)
        with contextlib.ExitStack() as held:
            writer = Writer(self._store, exchange, held, told_type(exchange))
            form = UploadForm(writer)
            form.take(formdata.events(exchange.body.read, boundary))
            etags = {file.field: writer.commit(file.incoming, file.key) for file in form.complete()}
        return Answer(200, [("ETag", etags["file0"])])


class Unpacked(NamedTuple):
    """A file of an archive, and where its bytes are in the spool."""

    key: str
    start: int  # bytes, as the size
    size: int


class PartlyStored(Refused):
    """AR-3: some files of a good archive are stored, others could not be."""

    def __init__(self, uploaded: Sequence[Unpacked], failures: Sequence[str], prefix: str) -> None:
        super().__init__(500, "archive-partial", f"{len(failures)} files of the archive could not be stored")
        self.uploaded, self.failures, self.prefix = uploaded, failures, prefix


def archive_report(status: str, uploaded: Sequence[Unpacked], failures: Sequence[str], prefix: str) -> bytes:
    """What clients of an archive look into (AR-1)."""
    report = {
        "status": status,
        "uploaded": len(uploaded),
        "failed": len(failures),
        "bytes": sum(file.size for file in uploaded),
        "prefix": prefix,
        "failures": failures,
    }
    return json.dumps(report).encode() + b"\n"


def told_in_json(refused: Refused) -> Answer:
    """A refusal in the form that clients of an archive expect (AR-2)."""
    report = archive_report("error", [], [refused.text], "")
    if isinstance(refused, PartlyStored):
        report = archive_report("partial_failure", refused.uploaded, refused.failures, refused.prefix)
    return Answer(refused.status, (JSON, NOSNIFF, *refused.headers), report)


class BlockReader:
    """Blocks, as much of them at a time as is asked for."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, b""

    def read(self, most: int) -> bytes:
        """Up to `most` bytes; b"" at the end."""
        block = self._rest or next(self._blocks, b"")
        self._rest = block[most:]
        return block[:most]


class ArchiveForm:
    """The fields of one archive upload, in either order. Files go to the spool as they are unpacked (AR-2)."""

    def __init__(self, writer: Writer, spool: IO[bytes], limits: archives.Limits) -> None:
        self._writer, self._spool, self._limits = writer, spool, limits
        self._path = FormPath()
        self._members: Optional[list[tuple[str, int, int]]] = None  # name, start, size

    def take(self, events: Events) -> None:
        for event in events:
            if isinstance(event, formdata.Part) and event.name == "path":
                self._path.take(part_blocks(events))
            elif isinstance(event, formdata.Part) and event.name == "archive":
                self._take_archive(event.filename, BlockReader(part_blocks(events)))

    def _take_archive(self, filename: Optional[str], reader: BlockReader) -> None:
        if self._members is not None:
            raise Refused(400, "archive-repeated", "More than one archive field in upload")
        if not filename:
            raise Refused(*NO_FILENAME)
        self._members = []
        for event in archives.members(archives.opened(filename, reader.read), self._limits):
            if isinstance(event, bytes):
                self._spool.write(event)
            elif event is not None:
                if self._path.text is not None:
                    self._writer.key(self._path.text, event.name)  # refused now, where it can be
                self._members.append((event.name, self._spool.tell(), event.size))

    def complete(self) -> tuple[str, list[Unpacked]]:
        """The prefix, and the files with their keys; of files with one key the last, as tar has it."""
        if self._members is None:
            raise Refused(400, "no-archive", "No archive field in upload")
        prefix = self._path.text or ""
        files = {}
        for name, start, size in self._members:
            key = self._writer.key(prefix, name)
            files[key] = Unpacked(key, start, size)
        for key in files:
            if any(key[: slash.start()] in files for slash in re.finditer("/", key)):
                raise Refused(*KEY_CONFLICT)
        return prefix, list(files.values())


class Archive:
    """POST /v1/archive (AR-1 to AR-3): the files of an archive, stored like single uploads once all of it is good."""

    MOST_AT_ONCE = 8  # of all clients: to unpack takes up to 100 MiB each

    def __init__(
        self, store: Store, spool_folder: str, parallelism: int, limits: archives.Limits = archives.LIMITS
    ) -> None:
        self._store, self._spool_folder = store, spool_folder
        self._parallelism, self._limits = parallelism, limits
        self._unpacking = threading.BoundedSemaphore(self.MOST_AT_ONCE)

    def respond(self, exchange: Exchange) -> Answer:
        exchange.tell_refusal = told_in_json
        self._store.credentials.owner(exchange)
        boundary = formdata.boundary(exchange.fields.get("content-type", ""))
        exchange.body.limit(self._store.most + FORM_OVERHEAD)
        with contextlib.ExitStack() as held, tempfile.TemporaryFile(dir=self._spool_folder) as spool:
            form = ArchiveForm(Writer(self._store, exchange, held), spool, self._limits)
            with self._turn_to_unpack():
                form.take(formdata.events(exchange.body.read, boundary))
            prefix, files = form.complete()
            spool.flush()
            self._store_all(exchange, spool.fileno(), files, prefix)
        exchange.key = prefix
        return Answer(200, (JSON, NOSNIFF), archive_report("ok", files, [], prefix))

    @contextlib.contextmanager
    def _turn_to_unpack(self) -> Iterator[None]:
        if not self._unpacking.acquire(timeout=self._store.wait_seconds):
            raise Refused(503, "archives-busy", "Too many archives at once, try again", [("Retry-After", "30")])
        try:
            yield
        finally:
            self._unpacking.release()

    def _store_all(self, exchange: Exchange, spool: int, files: Sequence[Unpacked], prefix: str) -> None:
        """Raises what befell the first file if none could be stored, PartlyStored if some could not."""
        store_one = partial(self._store_one, exchange, spool)
        together = self._store.driver.together({file.key: file.size for file in files})
        with together, ThreadPoolExecutor(min(self._parallelism, len(files)), "archive") as pool:
            refusals = list(pool.map(store_one, files))
        failures = [f"{file.key}: {refused.text}" for file, refused in zip(files, refusals) if refused is not None]
        stored = [file for file, refused in zip(files, refusals) if refused is None]
        if failures and not stored:
            raise next(refused for refused in refusals if refused is not None)
        if failures:
            raise PartlyStored(stored, failures, prefix)

    def _store_one(self, exchange: Exchange, spool: int, file: Unpacked) -> Optional[Refused]:
        try:
            with contextlib.ExitStack() as held:
                writer = Writer(self._store, exchange, held)
                writer.hold(file.key)
                incoming = writer.create(file.key)
                for at in range(file.start, file.start + file.size, READ_BYTES):
                    incoming.write(os.pread(spool, min(READ_BYTES, file.start + file.size - at), at))
                writer.commit(incoming, file.key)
        except Exception as error:  # noqa: BLE001  # the other files go on
            return refusal(error)
        return None


DOWNLOAD_WAITED: Refusal = (408, "download-locked", "Timeout waiting for upload")


class Download:
    """GET /<key> (DL-1 to DL-8)."""

    def __init__(self, driver: Driver, locks: LockTable, wait_seconds: float = 30.0) -> None:
        self._driver, self._locks, self._wait_seconds = driver, locks, wait_seconds

    def respond(self, exchange: Exchange) -> Answer:
        key = names.requested_key(exchange.path)
        if key is None or key.partition("/")[0] == PRIVATE:
            raise self._not_found(exchange.path.lstrip("/") if key is None else key)
        exchange.key = key
        with self._locks.reading(key, self._wait_seconds, DOWNLOAD_WAITED):  # only to open: what is open stays as it is
            found = self._driver.open(key, exchange.method == "HEAD", preconditions.first_byte(exchange.fields))
        if found is None:
            raise self._not_found(key)
        return self._answer(exchange, key, found)

    def _answer(self, exchange: Exchange, key: str, found: Found) -> Answer:
        exchange.state = found.state
        return answer_object(exchange, found, *self._told(key, found.content_type))

    @staticmethod
    @lru_cache(maxsize=4096)  # Measured: 0.2 us, against 3 us
    def _told(key: str, content_type: str) -> tuple[str, Headers]:
        """The media type of an object, and the headers that go by its key."""
        if not names.valid_media_type(content_type):  # nobody said, or a sidecar by hand, which could break the head
            content_type = names.content_type(key)
        return content_type, (("Content-Disposition", names.content_disposition(key)), NOSNIFF)

    @staticmethod
    def _not_found(key: str) -> Refused:
        return Refused(404, "not-found", f"Not Found: {key}")


class QuickDownload(Download):
    """The same, where some objects are in memory."""

    def __init__(self, driver: QuickDriver, locks: LockTable, wait_seconds: float = 30.0) -> None:
        super().__init__(driver, locks, wait_seconds)
        self._at_hand = driver.at_hand

    def at_once(self, exchange: Exchange) -> Optional[Answer]:
        """What is in memory; nothing private ever is."""
        key = names.requested_key(exchange.path)
        found = self._at_hand(key) if key is not None and self._locks.is_free(key) else None
        if key is None or found is None:
            return None
        exchange.key = key
        return self._answer(exchange, key, found)


class Challenged:
    """Downloads, behind the challenge for the browsers that it concerns (GA-4)."""

    def __init__(self, download: Download, challenge: Challenge, fallback_bytes_per_second: int) -> None:
        self._download, self._challenge, self._slowly = download, challenge, fallback_bytes_per_second
        self._at_once: Respond = download.at_once if isinstance(download, QuickDownload) else lambda exchange: None

    def respond(self, exchange: Exchange) -> Answer:
        if exchange.method != "GET" or not self._concerns(exchange):
            return self._download.respond(exchange)
        if self._slowly and FALLBACK_QUERY in exchange.head.query.split("&"):
            answer = self._download.respond(exchange)
            # Measured: nginx 1.22 ignores the rate with `proxy_buffering off`, which the other header overrules.
            slow = (("X-Accel-Limit-Rate", str(self._slowly)), ("X-Accel-Buffering", "yes"))
            return answer._replace(headers=(*answer.headers, *slow))
        return Answer(200, CHALLENGE_HEADERS, self._challenge.page())

    def at_once(self, exchange: Exchange) -> Optional[Answer]:
        return None if self._concerns(exchange) else self._at_once(exchange)

    def _concerns(self, exchange: Exchange) -> bool:
        fields = exchange.fields
        if not self._challenge.concerns(fields.get("user-agent", "")):
            return False
        return not self._challenge.passed(fields.get("cookie", ""), exchange.address, time.time())


class ChallengeCookie:
    """POST /v1/download-challenge (GA-4): what the page's script asks for."""

    def __init__(self, challenge: Optional[Challenge]) -> None:
        self._challenge = challenge

    def respond(self, exchange: Exchange) -> Answer:
        if self._challenge is None:
            raise Refused(404, "challenge-off", "Not Found: there is no download challenge here")
        if not self._challenge.concerns(exchange.fields.get("user-agent", "")):
            raise Refused(403, "challenge-not-yours", "Forbidden: this client needs no challenge")
        cookie = self._challenge.cookie(exchange.address, time.time())
        return Answer(204, [("Set-Cookie", cookie), ("Cache-Control", "no-store, private")])


class Listing:
    """GET /v1/list (LS-1): the keys, streamed. `?prefix=` is percent-decoded as a path is: `+` stays `+`."""

    BLOCK = 65_536

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def respond(self, exchange: Exchange) -> Answer:
        pairs = (pair.partition("=") for pair in exchange.head.query.split("&"))
        prefix = next((unquote(value) for name, _, value in pairs if name == "prefix"), "")
        return Answer(200, (PLAIN, NOSNIFF), StreamBody(self._blocks(prefix.lstrip("/"))))

    def _blocks(self, prefix: str) -> Generator[bytes, None, None]:
        block = bytearray()
        for key in filter(names.is_key, self._driver.keys(prefix)):  # others were put there by hand: no URL finds them
            block += key.encode() + b"\n"
            if len(block) >= self.BLOCK:
                yield bytes(block)
                block.clear()
        yield bytes(block)


class Unlisted:
    """GET /v1/list where `[list] enabled = false` (LS-1)."""

    def respond(self, exchange: Exchange) -> Answer:
        raise Refused(403, "list-disabled", "Listing is disabled")


class MetricsPage:
    """GET /metrics (MT-1)."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def respond(self, exchange: Exchange) -> Answer:
        return Answer(200, [("Content-Type", self._metrics.CONTENT_TYPE), NOSNIFF], self._metrics.text())


class Bans:
    """The gates before every handler (GA-1, GA-2)."""

    def __init__(self, agents: guards.AgentBan, subnets: guards.Subnets, log: Log) -> None:
        self._agents, self._subnets, self._log = agents, subnets, log

    def check_subnet(self, exchange: Exchange) -> None:
        if self._subnets.contains(exchange.address):
            self._ban("subnet_ban", "subnet-ban", exchange)

    def check_agent(self, exchange: Exchange) -> None:
        if self._agents.banned(exchange.fields.get("user-agent", "")):
            self._ban("useragent_ban", "useragent-ban", exchange)

    def _ban(self, event: str, reason: str, exchange: Exchange) -> None:
        agent = exchange.fields.get("user-agent", "")
        self._log.event(event, ip=exchange.address, ua=agent, target=exchange.head.target)
        raise Refused(403, reason, "Forbidden")


# ---------------------------------------------------------------------------------------------------------------------
# Configuration (CF-2): the dataclasses are the format; config.toml.example shows each key at its default
# ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Local:
    storage_path: str = "./storage"


@dataclasses.dataclass(frozen=True)
class Azure:
    account: str = ""
    key: str = secret()
    container: str = ""
    sastoken: str = secret()
    endpoint: str = ""


@dataclasses.dataclass(frozen=True)
class S3:
    endpoint: str = ""
    bucket: str = ""
    access_key: str = ""
    secret_key: str = secret()
    region: str = ""
    secure: bool = True


@dataclasses.dataclass(frozen=True)
class User:
    name: str
    prefixes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Auth:
    enforce_expiry: bool = True


@dataclasses.dataclass(frozen=True)
class ListOptions:
    enabled: bool = True


@dataclasses.dataclass(frozen=True)
class UserAgent:
    defaults: bool = True
    ban: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class CacheOptions:
    cleanup_chunk_size: int = 100_000
    revalidate_seconds: float = 60.0
    max_files: int = 1_000_000
    low_free_percent: float = 12.0
    high_free_percent: float = 13.0
    housekeeping_seconds: float = 300.0


@dataclasses.dataclass(frozen=True)
class LockOptions:
    scope: str = "cluster"


@dataclasses.dataclass(frozen=True)
class Retention:
    tag_key: str = "retention"
    tag_value: str = ""
    expire: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DownloadChallenge:
    user_agents: tuple[str, ...] = ()
    secret: str = secret()
    cookie_ttl_seconds: int = 600
    ipv4_prefix_length: int = 24
    ipv6_prefix_length: int = 64
    fallback_bytes_per_second: int = 0
    secure_cookie: bool = True


@dataclasses.dataclass(frozen=True)
class LimitOptions:
    upload_bytes: int = 4 << 30
    connections: int = 1000
    head_seconds: float = 10.0
    body_idle_seconds: float = 60.0
    keep_alive_seconds: float = 30.0
    lock_seconds: float = 30.0
    backend_seconds: float = 20.0
    archive_parallelism: int = 0  # files of one archive that are stored at once; 0: what suits the driver


@dataclasses.dataclass(frozen=True)
class Config:
    driver: str = "azure"
    jwt_secret: str = secret()
    unified_secret: str = secret()
    block_subnets: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = guards.DEFAULT_TRUSTED_PROXIES
    local: Local = Local()
    azure: Azure = Azure()
    s3: S3 = S3()
    users: tuple[User, ...] = ()
    auth: Auth = Auth()
    list: ListOptions = ListOptions()
    useragent: UserAgent = UserAgent()
    cache: CacheOptions = CacheOptions()
    lock: LockOptions = LockOptions()
    retention: Retention = Retention()
    download_challenge: DownloadChallenge = DownloadChallenge()
    limits: LimitOptions = LimitOptions()


class Storage(NamedTuple):
    """A driver, and what goes on beside it."""

    driver: Driver
    at_start: Chores = ()
    chores: Chores = ()
    files_cached: Callable[[], int] = lambda: 0


class Surroundings(NamedTuple):
    """What drivers and handlers have beside them."""

    files: str  # the working folder
    log: Log
    metrics: Metrics
    locks: LockTable
    stopping: Callable[[], bool] = lambda: False  # whether a long chore should end


DELETE_SECONDS = 1.0  # for the lock of a key: who has it longer, stores another version


def retention_chore(config: Config, driver: LocalDriver, around: Surroundings) -> Callable[[], None]:
    """Deletes what is past its time (UP-12), under its lock."""
    from kcistorage_parts.eviction import Pace, Stopped

    def delete(key: str, etag: str) -> bool:
        with contextlib.suppress(Refused), around.locks.holding(key, DELETE_SECONDS, UPLOAD_WAITED):
            return driver.delete(key, etag)
        return False

    def expire() -> None:
        pace = Pace(around.stopping)
        with contextlib.suppress(Stopped):
            for past, error in sweeper.sweep(lambda now: driver.expired(tag, config.retention.expire, now, pace)):
                event, told = ("expired", {}) if error is None else ("expire-failed", {"error": error})
                around.log.event(event, path=past.key, tag=past.value, age_days=int(past.age_days), **told)

    tag, sweeper = config.retention.tag_key, Sweeper(delete)
    return expire


def open_local(config: Config, around: Surroundings) -> Storage:
    try:
        driver = LocalDriver(config.local.storage_path)
        return Storage(driver, (), [retention_chore(config, driver, around)] if config.retention.expire else [])
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        expected = f"a folder that can be written ({getattr(error, 'strerror', None) or error})"
        raise wrong("local.storage_path", config.local.storage_path, expected) from None


def warn(log: Log, event: str, text: str) -> None:
    log.event(event, text=text)


def make_azure(config: Config, log: Log, seconds: float, attempts: int) -> Any:
    from kcistorage_parts.azure import AzureBackend

    options = dataclasses.asdict(config.azure)
    return AzureBackend(
        **options, timeout_seconds=seconds, attempts=attempts, warn=partial(warn, log, "storage-warning")
    )


def make_s3(config: Config, log: Log, seconds: float, attempts: int) -> Any:
    from kcistorage_parts.s3 import S3Backend

    options = dataclasses.asdict(config.s3)
    return S3Backend(**options, timeout_seconds=seconds, attempts=attempts, warn=partial(warn, log, "storage-warning"))


BACKENDS: Mapping[str, Callable[[Config, Log, float, int], Any]] = {"azure": make_azure, "s3": make_s3}
CHECK_SECONDS = 3.0  # the start waits no longer for a back end: one that is away may come
ATTEMPTS = 4


def checked_backend(config: Config, log: Log) -> Any:
    """The container that is configured. What can never work stops the start; what may pass is a warning."""
    make, name = BACKENDS[config.driver], config.driver
    try:
        with contextlib.closing(make(config, log, CHECK_SECONDS, 1)) as backend:
            backend.check()
    except ImportError as error:
        expected = f'its library ({error.name} is missing): pip install "kcistorage[{name}]", or make run EXTRAS={name}'
        raise wrong("driver", name, expected) from None
    except ValueError as error:
        key, _, expected = str(error).partition(": ")
        if not expected:  # from the depths of a library
            raise ConfigError(f"{name}: {error}") from None
        raise wrong(f"{name}.{key}", shown(getattr(config, name)).get(key, NOT_SHOWN), expected) from None
    except (FileNotFoundError, PermissionError) as error:
        raise wrong(
            name, shown(getattr(config, name)), f"a container that these values open ({error.strerror})"
        ) from None
    except OSError as error:
        log.event("warning", text=f"the storage does not answer yet: {error}")
    return make(config, log, config.limits.backend_seconds, ATTEMPTS)


def open_cloud(config: Config, around: Surroundings) -> Storage:
    """A container behind a cache, or past it where the folder cannot be made."""
    from kcistorage_parts.cache import Cache
    from kcistorage_parts.cloud import CloudDriver
    from kcistorage_parts.eviction import Housekeeping, Limits

    def keep_house() -> None:
        report = housekeeping.tidy(limits)
        numbers = {"files": report.count, "deleted": report.deleted, "reclaimed": report.reclaimed}
        around.log.event("housekeeping", free=f"{report.free:.1%}", **numbers)

    backend, cache, options = checked_backend(config, around.log), None, config.cache
    try:
        cache = Cache(os.path.join(around.files, "cache"))
    except OSError as error:
        warn(around.log, "cache-failed", f"there is no cache: {error.strerror}")
    cluster, warning = config.lock.scope == "cluster", partial(warn, around.log)
    driver = CloudDriver(backend, cache, options.revalidate_seconds, cluster, warning, around.metrics.backend)
    if cache is None:
        return Storage(driver, [], [driver.remove_dead_locks])
    housekeeping = Housekeeping(cache, around.stopping)
    low, high = options.low_free_percent / 100, options.high_free_percent / 100
    limits = Limits(options.max_files, low, high, options.cleanup_chunk_size)
    return Storage(driver, [housekeeping.recover], [keep_house, driver.remove_dead_locks], lambda: cache.count)


DRIVERS: Mapping[str, Callable[[Config, Surroundings], Storage]] = {
    "local": open_local,
    "azure": open_cloud,
    "s3": open_cloud,
}

LOCK_SCOPES = ("cluster", "server")
CHALLENGE_BOUNDS = (
    ("cookie_ttl_seconds", 30, 86_400),
    ("ipv4_prefix_length", 0, 32),
    ("ipv6_prefix_length", 0, 128),
    ("fallback_bytes_per_second", 0, 1 << 40),
)
MOST = 1 << 53  # bytes, files, seconds: beyond it a number is a mistake


def check_networks(key: str, networks: Sequence[str]) -> None:
    try:
        guards.networks(networks)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def check_guards(config: Config) -> None:
    check_networks("block_subnets", config.block_subnets)
    check_networks("trusted_proxies", config.trusted_proxies)
    if not all(word.strip() for word in config.useragent.ban):
        raise wrong("useragent.ban", config.useragent.ban, "words of one character at least: an empty one bans all")


def check_retention(retention: Retention, driver: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", retention.tag_key):
        raise wrong("retention.tag_key", retention.tag_key, "letters, digits, _ . -")
    if not re.fullmatch(r"[ -~]*", retention.tag_value):
        raise wrong("retention.tag_value", retention.tag_value, "printable ASCII")
    if retention.expire and driver != "local":
        raise wrong(
            "retention.expire", retention.expire, 'none but with driver = "local": clouds have rules of their own'
        )
    for value, days in retention.expire.items():
        if not 0 < days <= MOST:
            raise wrong(f"retention.expire.{json.dumps(value)}", days, "days, above 0")


ZERO_IS_FINE = ("revalidate_seconds", "archive_parallelism")  # at each download; what suits the driver


def check_numbers(name: str, table: Union[LimitOptions, CacheOptions]) -> None:
    for field in dataclasses.fields(table):
        least = 0 if field.name in ZERO_IS_FINE else 1e-6
        most = threading.TIMEOUT_MAX if field.name.endswith("_seconds") else MOST  # what can be waited for
        if not least <= getattr(table, field.name) <= most:
            raise wrong(f"{name}.{field.name}", getattr(table, field.name), "a number above 0, and not a huge one")


def check_challenge(challenge: DownloadChallenge) -> None:
    """GA-4. What is off need not be right."""
    if not challenge.user_agents:
        return
    where = "download_challenge"
    if not all(agent.strip() for agent in challenge.user_agents):
        raise wrong(
            f"{where}.user_agents", challenge.user_agents, "words of one character at least: an empty one means all"
        )
    if len(challenge.secret) < 32:
        expected = "32 characters or more, such as `kcistorage --generate-jwt-secret` prints"
        raise wrong(f"{where}.secret", NOT_SHOWN, expected)
    for key, least, most in CHALLENGE_BOUNDS:
        if not least <= getattr(challenge, key) <= most:
            raise wrong(f"{where}.{key}", getattr(challenge, key), f"{least} to {most}")


def check_config(config: Config) -> None:
    """What types cannot say."""
    if config.driver not in DRIVERS:
        raise wrong("driver", config.driver, " or ".join(f'"{name}"' for name in DRIVERS))
    if not (config.jwt_secret or config.unified_secret):  # AU-2
        raise wrong("jwt_secret", "", "a secret, such as `kcistorage --generate-jwt-secret` prints")
    for key, value in (("azure.account", config.azure.account), ("s3.bucket", config.s3.bucket)):
        if key.startswith(f"{config.driver}.") and not value:
            raise wrong(key, value, f'a name, as driver = "{config.driver}" has it; driver = "local" needs none')
    if not config.local.storage_path:
        raise wrong("local.storage_path", "", "a folder")
    check_challenge(config.download_challenge)
    check_guards(config)
    check_retention(config.retention, config.driver)
    check_numbers("limits", config.limits)
    check_numbers("cache", config.cache)
    if not config.cache.low_free_percent <= config.cache.high_free_percent < 100:
        raise wrong("cache.high_free_percent", config.cache.high_free_percent, "from low_free_percent to below 100")
    if config.lock.scope not in LOCK_SCOPES:
        raise wrong("lock.scope", config.lock.scope, " or ".join(f'"{scope}"' for scope in LOCK_SCOPES))


NEIGHBOURS = ("stor",)  # tables of the protocols that live beside this one


def read_table(path: str, load: Callable[[IO[bytes]], dict[str, Any]] = tomllib.load) -> dict[str, Any]:
    """Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            return load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; --init writes one") from None
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number or depth beyond Python's
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def load_config(path: str) -> Config:
    """Reads and checks a configuration file; raises ConfigError."""
    table = read_table(path)
    try:
        config = section(Config, {name: value for name, value in table.items() if name not in NEIGHBOURS})
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config


# ---------------------------------------------------------------------------------------------------------------------
# Putting it together
# ---------------------------------------------------------------------------------------------------------------------


# Files of one archive that are stored at once (AR-3). A cloud takes as long for one as for many; a disk gains from a
# few, whose fsyncs it does together.
PARALLELISM = {"local": 4, "azure": 64, "s3": 64}

BANNER = "KernelCI Proxy Server"  # ST-1; Upstream: deployed servers say KernelCI Storage Server
ICON = "https://kernelci.org/favicon.ico"
# Keys that no object may have (UP-4): the private folder, and every route, served now or in the protocol.
RESERVED = frozenset(
    [
        f"{PRIVATE}/",
        "favicon.ico",
        "metrics",
        "robots.txt",
        "upload",
        "v1/archive",
        "v1/checkauth",
        "v1/download-challenge",
        "v1/file",
        "v1/list",
    ]
)


def build_challenge(options: DownloadChallenge) -> Optional[Challenge]:
    if not options.user_agents:
        return None
    return Challenge(
        options.user_agents,
        options.secret,
        options.cookie_ttl_seconds,
        options.ipv4_prefix_length,
        options.ipv6_prefix_length,
        options.fallback_bytes_per_second > 0,
        options.secure_cookie,
    )


def build_site(config: Config, driver: Driver, around: Surroundings) -> Site:
    """The protocol as a table."""
    users = [tokens.User(user.name, user.prefixes) for user in config.users]
    keys = [key for key in (config.jwt_secret, config.unified_secret) if key]
    credentials = Credentials(keys, users, config.auth.enforce_expiry)
    retention, limits = config.retention, config.limits
    tags = [(retention.tag_key, retention.tag_value)] if retention.tag_value else []
    store = Store(driver, around.locks, credentials, RESERVED, tags, limits.upload_bytes, limits.lock_seconds)
    upload = Upload(store)
    archive = Archive(store, around.files, limits.archive_parallelism or PARALLELISM[config.driver])
    wait = around.locks, limits.lock_seconds
    download = QuickDownload(driver, *wait) if isinstance(driver, QuickDriver) else Download(driver, *wait)
    challenge, slowly = build_challenge(config.download_challenge), config.download_challenge.fallback_bytes_per_second
    agents = (*(guards.DEFAULT_BANNED_AGENTS if config.useragent.defaults else ()), *config.useragent.ban)
    bans = Bans(guards.AgentBan(agents), guards.Subnets(guards.networks(config.block_subnets)), around.log)
    return Site(
        gates=[bans.check_subnet, bans.check_agent],
        routes={
            "/": {"GET": Constant(plain(200, BANNER))},
            "/robots.txt": {"GET": Constant(plain(200, "User-agent: *\nDisallow: /\n"))},
            "/favicon.ico": {"GET": Constant(plain(301, "", [("Location", ICON)]))},
            "/upload": {"POST": upload},
            "/v1/file": {"POST": upload},
            "/v1/archive": {"POST": archive},
            "/v1/checkauth": {"GET": CheckAuth(credentials)},
            CHALLENGE_PATH: {"POST": ChallengeCookie(challenge)},
            "/v1/list": {"GET": Listing(driver) if config.list.enabled else Unlisted()},
            "/metrics": {"GET": MetricsPage(around.metrics)},
        },
        otherwise={"GET": download if challenge is None else Challenged(download, challenge, slowly)},
    )


def identify(trusted: guards.Subnets, peer: str, fields: heads.Fields) -> str:
    """GA-3"""
    return guards.client_address(peer, fields.get("x-forwarded-for"), fields.get("forwarded"), trusted)


def build_server(
    config: Config, address: tuple[str, int], files: str, tls: Optional[ssl.SSLContext], log: Log
) -> StorageServer:
    disks = {"files": files, **({"storage": config.local.storage_path} if config.driver == "local" else {})}
    metrics = Metrics(disks, __version__, lambda: storage.files_cached(), lambda: server.connections)  # noqa: PLW0108
    housekeeper = Housekeeper(log, config.cache.housekeeping_seconds)
    around = Surroundings(files, log, metrics, LockTable(metrics.lock_waited), housekeeper.is_stopping)
    storage = DRIVERS[config.driver](config, around)
    housekeeper.undertake(storage.at_start, storage.chores)
    trusted = guards.Subnets(guards.networks(config.trusted_proxies))
    limits = config.limits
    server = StorageServer(
        address,
        build_site(config, storage.driver, around),
        log,
        metrics,
        partial(identify, trusted),
        tls,
        Limits(limits.head_seconds, limits.body_idle_seconds, limits.keep_alive_seconds),
        limits.connections,
        housekeeper,
        storage.driver.close,
    )
    return server


# ---------------------------------------------------------------------------------------------------------------------
# Command line (CF-1, CF-3)
# ---------------------------------------------------------------------------------------------------------------------

INITIAL_CONFIG = """\
# kcistorage: see config.toml.example for every key
driver = "local"
jwt_secret = "{secret}"

[local]
storage_path = "./storage"

# Without any [[users]], every valid token may upload anywhere.
# [[users]]
# name = "you@example.com"
# prefixes = ["your-builds/"]
"""


LOG_DELAY = 0.01  # seconds
PARALLELISM_VARIABLE = "KCI_STORAGE_ARCHIVE_PARALLELISM"


def parse_arguments(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kcistorage", description="KernelCI artifact storage server.")
    parser.add_argument(
        "--config-file",
        default="./config.toml",
        metavar="FILE",
        help="default %(default)s; env KCI_STORAGE_CONFIG wins",
    )
    parser.add_argument(
        "--files-directory", default="./", metavar="DIR", help="working folder, for the cache; default %(default)s"
    )
    parser.add_argument(
        "--ssl-directory", default="./ssl", metavar="DIR", help="with cert.pem and key.pem: HTTPS; default %(default)s"
    )
    parser.add_argument(
        "--init", action="store_true", help="write a configuration with a fresh secret and print how to upload"
    )
    parser.add_argument("--generate-jwt-secret", action="store_true", help="print a secret for the configuration")
    parser.add_argument("--generate-jwt-token", metavar="EMAIL", help="print an upload token for a user")
    parser.add_argument("--expires-in", type=float, metavar="DAYS", help="with --generate-jwt-token: days it is valid")
    parser.add_argument(
        "--retention-dry-run", action="store_true", help="print which local objects are past their time; delete none"
    )
    parser.add_argument(
        "--scrub",
        action="store_true",
        help="read every local object and tell what is wrong; exit code 1 if anything is",
    )
    parser.add_argument("--verbose", action="store_true", help="debug lines in the log; as env STORAGE_DEBUG")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser.parse_args(arguments)


def listen_address(environment: Mapping[str, str]) -> tuple[str, int]:
    host, port = environment.get("KCI_STORAGE_HOST", "0.0.0.0"), environment.get("KCI_STORAGE_PORT", "3000")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise wrong("KCI_STORAGE_PORT", port, "a port from 0 to 65535")
    return host, int(port)


def listening(build: Callable[[tuple[str, int]], StorageServer], environment: Mapping[str, str]) -> StorageServer:
    address = listen_address(environment)
    try:
        return build(address)
    except (OSError, OverflowError) as error:
        raise wrong("KCI_STORAGE_HOST, KCI_STORAGE_PORT", list(address), f"an address to listen on ({error})") from None


def tls_context(folder: str) -> Optional[ssl.SSLContext]:
    """HTTPS when the folder holds a certificate and its key; one without the other is a mistake."""
    certificate, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    there = [os.path.exists(path) for path in (certificate, key)]
    if not any(there):
        return None
    if not all(there):
        raise wrong("--ssl-directory", folder, "both cert.pem and key.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise wrong("--ssl-directory", folder, f"a certificate and its key as PEM ({error})") from None
    return context


def signing_secret(config: Config) -> str:
    return config.jwt_secret or config.unified_secret


def print_example(config: Config, url: str) -> None:
    user = next((user for user in config.users if user.prefixes), User("you@example.com", ("",)))
    folder = user.prefixes[0].strip("/") or "hello"
    source = Path(__file__).resolve()
    sample = next((path for path in (source.with_name("README.md"), source) if path.is_file()), Path("README.md"))
    token = tokens.mint(user.name, signing_secret(config), time.time())
    print("\nUpload a file:")
    fields = f"-F path={shlex.quote(folder)} -F file0=@{shlex.quote(str(sample))}"
    print(f'  curl -f -H "Authorization: Bearer {token}" {fields} {url}/upload')
    print(f"and find it under\n  {url}/{quote(f'{folder}/{sample.name}')}\n", flush=True)


def write_once(path: str, text: str) -> bool:
    """Writes a new configuration; false where there is one, which is kept."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # it holds the secret
    except FileExistsError:
        print(f"{path} is there already: kept as it is.")
        return False
    except OSError as error:
        raise wrong("--config-file", path, f"a file that can be written ({error.strerror})") from None
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return True


def reachable(host: str, port: int) -> str:
    """The authority of a URL for this host itself."""
    name = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def initialize(path: str, environment: Mapping[str, str], scheme: str) -> None:
    """CF-3: writes the configuration unless there is one, then prints an upload that can be pasted as it is."""
    if write_once(path, INITIAL_CONFIG.format(secret=tokens.new_secret())):
        print(f"{path}: written, with the local driver and a fresh secret.")
    print_example(load_config(path), f"{scheme}://{reachable(*listen_address(environment))}")


def warnings(config: Config, path: str) -> Iterator[str]:
    """What works, but should not stay so."""
    if len(signing_secret(config).encode()) < 32:
        yield "jwt_secret is shorter than 32 bytes: it can be guessed from a token"
    if config.driver == "local" and Path(config.local.storage_path).resolve() in Path(path).resolve().parents:
        yield f"{path} lies in the storage: everybody can download the secret"


def with_environment(config: Config, environment: Mapping[str, str]) -> Config:
    """AR-3: the one option that has a variable too, which wins."""
    told = environment.get(PARALLELISM_VARIABLE)
    if told is None:
        return config
    if not re.fullmatch("[0-9]{1,3}", told):
        raise wrong(PARALLELISM_VARIABLE, told, "a whole number from 0 to 999")
    limits = dataclasses.replace(config.limits, archive_parallelism=int(told))
    return dataclasses.replace(config, limits=limits)


def serve_until_signal(server: StorageServer, log: Log, **about: str) -> None:
    """CF-3: runs until SIGTERM or SIGINT; a second signal ends at once. `about` is told at the start."""
    received: list[str] = []

    def stop() -> None:
        log.event("stop", signal=received[0], connections=server.connections)
        server.stop()

    stopper = threading.Thread(target=stop)  # not in the handler: the main thread may hold any lock when it runs

    def end(number: int, _frame: object) -> None:
        received.append(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stopper.start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    scheme, (host, port) = "https" if server.tls else "http", server.server_address[:2]
    log.event("start", version=__version__, **about, url=f"{scheme}://{host!s}:{port}")
    server.serve_forever()
    stopper.join()
    log.flush()


def serve(path: str, options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    config = with_environment(load_config(path), environment)
    log = Log(sys.stdout.fileno(), bool(options.verbose or environment.get("STORAGE_DEBUG")), LOG_DELAY)
    tls = tls_context(options.ssl_directory)
    server = listening(lambda at: build_server(config, at, options.files_directory, tls, log), environment)
    for text in warnings(config, path):
        log.event("warning", text=text)
    serve_until_signal(server, log, driver=config.driver)
    return 0


def counted(number: int, thing: str, things: str) -> str:
    return f"{number:,} {thing if number == 1 else things}"


def shortened(path: str, most: int = 40) -> str:
    return path if len(path) <= most else f"…{path[1 - most :]}"


def local_storage(config: Config, option: str) -> str:
    """The folder that a command is about, which does not make one by mistake."""
    path = config.local.storage_path
    if config.driver != "local":
        raise wrong("driver", config.driver, f'"local" for {option}')
    try:
        os.scandir(path).close()
    except OSError as error:
        raise wrong("local.storage_path", path, f"a folder that can be read ({error.strerror})") from None
    return path


def print_expired(config: Config) -> None:
    """What the next sweep would delete (UP-12): days of age, tag and key, a line each."""
    retention = config.retention
    if not retention.expire:
        raise wrong("retention.expire", {}, 'tag values and days, such as { "6m" = 180 }')
    driver = LocalDriver(local_storage(config, "--retention-dry-run"), serve=False)
    count = 0
    for past in driver.expired(retention.tag_key, retention.expire, time.time()):
        count += 1
        print(f"{past.age_days:.1f}\t{quoted(past.value)}\t{quoted(past.key)}")
    print(f"{counted(count, 'object', 'objects')} would be deleted", file=sys.stderr)


class Progress:
    """A line on a terminal that is written over as work goes on; nothing elsewhere. One thread."""

    def __init__(self) -> None:
        self._wanted, self._next = sys.stderr.isatty(), 0.0

    def show(self, text: str) -> None:
        if self._wanted and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.2
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._wanted:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def tell_scrub(thing: str, things: str, findings: Iterable[tuple[str, object, str, int]]) -> int:
    """Findings are what, how, path and bytes: prints those that are not "ok", a line each. 1 when there are any."""
    progress = Progress()
    count = size = faults = 0
    for what, how, path, size_of_one in findings:
        if what == "ok":
            count, size = count + 1, size + size_of_one
            progress.show(f"{counted(count, thing, things)}, {size / 1e6:.1f} MB read: {shortened(path)}")
        else:
            faults += 1
            progress.clear()
            print(f"{what}\t{how}\t{path}", flush=True)
    progress.clear()
    told = f"{counted(count, thing, things)} of {size / 1e6:.1f} MB in order, {counted(faults, 'fault', 'faults')}"
    print(told, file=sys.stderr)
    return 1 if faults else 0


def scrub(config: Config) -> int:
    """Reads all objects; prints what is wrong, its size and its path, a line each. 1 when something is."""
    layout = Layout(entity_tag, read_sidecar, sorted_names, names.is_key)
    storage = local_storage(config, "--scrub")
    found = ((each.what, each.size, each.path, each.size) for each in Scrub(storage, layout))
    return tell_scrub("object", "objects", found)


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    path = environment.get("KCI_STORAGE_CONFIG") or options.config_file
    if options.generate_jwt_secret:
        print(tokens.new_secret())
    elif options.init:
        initialize(path, environment, "https" if tls_context(options.ssl_directory) else "http")
    elif options.generate_jwt_token is not None:
        key = signing_secret(load_config(path))
        try:
            print(tokens.mint(options.generate_jwt_token, key, time.time(), options.expires_in))
        except ValueError as error:
            raise ConfigError(f"--generate-jwt-token {options.generate_jwt_token!r}: {error}") from None
    elif options.scrub:
        return scrub(load_config(path))
    elif options.retention_dry_run:
        print_expired(load_config(path))
    else:
        return serve(path, options, environment)
    return 0


def exit_code(program: str, command: Callable[[], int]) -> int:
    """What a command ends with: 2 and a line for a mistake in its configuration, and as others do it for signals."""
    try:
        code = command()
        sys.stdout.flush()
    except ConfigError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # nobody reads on: `--scrub | head`. What is left in the buffer would be tried once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def main(arguments: Optional[Sequence[str]] = None) -> int:
    options = parse_arguments(arguments)
    return exit_code("kcistorage", lambda: run(options, os.environ))


if __name__ == "__main__":
    sys.exit(main())
