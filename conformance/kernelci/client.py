"""The client of the checks: what the KernelCI storage protocol is made of, in words the checks can speak."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Callable, NamedTuple, Optional
from urllib.parse import quote

from conformance.core import expect, poll
from conformance.core.history import History
from conformance.core.plugin import Run
from conformance.core.registry import Check
from conformance.core.transcript import Transcript
from conformance.core.verdict import DependencyFailed, Untestable
from conformance.core.wire import Connection, Headers, Response, head_bytes
from conformance.kernelci import tokens

BOUNDARY = "conformance-7MA4YWxkTrZu0gW"
SAMPLE = random.Random(9110).randbytes(1287)  # not periodic: a wrong offset shows
HALF = 1 << 20  # what a held upload has sent: more than a server keeps in one buffer


class Part(NamedTuple):
    """One part of a form. `filename` None: a text field. Bytes, because a check may send what is not UTF-8."""

    name: str
    content: bytes
    filename: Optional[bytes] = None
    extra: bytes = b""  # more parameters of Content-Disposition, or more header lines

    def head(self) -> bytes:
        line = b'Content-Disposition: form-data; name="' + self.name.encode() + b'"'
        if self.filename is not None:
            line += b'; filename="' + self.filename + b'"'
        line += self.extra
        if self.filename is not None:
            line += b"\r\nContent-Type: application/octet-stream"
        return b"--" + BOUNDARY.encode() + b"\r\n" + line + b"\r\n\r\n"


def field(name: str, value: str) -> Part:
    return Part(name, value.encode())


def file(filename: str, content: bytes, name: str = "file0") -> Part:
    return Part(name, content, filename.encode())


def form(*parts: Part) -> bytes:
    """The body of a multipart/form-data request."""
    body = b"".join(part.head() + part.content + b"\r\n" for part in parts)
    return body + b"--" + BOUNDARY.encode() + b"--\r\n"


FORM_TYPE = ("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")


def payload(label: str, size: int) -> bytes:
    """Bytes that are the label's own at every offset, the label in front: a mix of two payloads is neither of them."""
    return (label.encode() + b"\n" + random.Random(label).randbytes(size))[:size]


@dataclass(frozen=True)
class Sample:
    """An object that is known to be there, and how the server described it."""

    path: str  # as it stands in a request line
    data: bytes
    response: Response

    @property
    def etag(self) -> str:
        return self._built_on("ETag")

    @property
    def modified(self) -> str:
        return self._built_on("Last-Modified")

    def _built_on(self, name: str) -> str:
        """A header that another check judges (DL-02e, DL-02f)."""
        values = self.response.all(name)
        if len(values) != 1:
            raise DependencyFailed(f"this check builds on one {name}; there are {len(values)}")
        return values[0]


class Held:
    """An upload whose body is half sent: its gate opens with `open`."""

    def __init__(self, connection: Connection, rest: bytes, content: bytes) -> None:
        self.connection = connection
        self.content = content
        self._rest = rest
        self.reader: Optional[Connection] = None  # a download of the key that waits, once the lock has shown
        self.begun = History.now()

    def shows(self) -> bool:
        """Whether the lock is held as far as can be seen: its witness still waits, or there never was one."""
        return self.reader is None or not self.reader.answered_within(0)

    def trickle(self) -> None:
        """Sends one byte more, so that the upload is slow and not idle."""
        self.connection.send(self._rest[:1], opening=False)
        self._rest = self._rest[1:]

    def open(self) -> Response:
        """Sends the other half and gives the answer of the upload."""
        self.connection.send(self._rest, opening=False)
        return self.connection.receive("POST")


def named(headers: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.replace("_", "-").title(), value) for name, value in headers.items()]


def path_of(key: str) -> str:
    """The request path of a key: percent-encoded once, / kept."""
    return "/" + quote(key, safe="/")


class Client:
    """One check's view of the server. Connections it opened are closed at the end of the check.

    Everything is written under a folder of its own; nothing needs to be deleted. Methods may be called from several
    threads, a Connection only from one.
    """

    def __init__(self, run: Run, check: Check, transcript: Transcript, attempt: int) -> None:
        self.run = run
        self.patience = run.patience
        self.transcript = transcript
        name = check.slug if attempt == 1 else f"{check.slug}.{attempt}"
        self.folder = f"{run.options.namespace}/{name}"
        self._open: list[Connection] = []

    def close(self) -> None:
        for connection in self._open:
            connection.close()

    # ------------------------------------------------------------------------------------------------- inputs

    @property
    def token(self) -> str:
        return self.secret("token", "a write token (--token-env)")

    def secret(self, name: str, what: str) -> str:
        value = self.run.options.secrets.get(name)
        if not value:
            raise Untestable(f"needs {what}")
        return value

    def given(self, name: str, option: str) -> str:
        value = self.run.options.inputs.get(name)
        if not value:
            raise Untestable(f"needs {option}")
        return value

    def minted(self, claims: Mapping[str, object], algorithm: str = "HS256") -> str:
        """A token signed with the server's secret, where that was given."""
        return tokens.mint(self.secret("secret", "the secret of the server (--secret-env)"), claims, algorithm)

    @property
    def email(self) -> str:
        try:
            return str(tokens.claims_of(self.token)["email"])
        except (ValueError, KeyError, IndexError):
            raise Untestable("the write token is no JWT with an email: nothing can be said of its user") from None

    # -------------------------------------------------------------------------------------------------- words

    def connection(self, receive_buffer: Optional[int] = None) -> Connection:
        made = self.run.connect(self.transcript, receive_buffer)
        self._open.append(made)
        return made

    def head(self, method: str, path: str, headers: Headers = (), version: str = "HTTP/1.1") -> bytes:
        """A request head with Host and a User-Agent, unless `headers` has its own."""
        names = {name.lower() for name, _ in headers}
        usual = [("Host", self.run.options.target.authority), ("User-Agent", "kcistorage-conformance")]
        lines = [pair for pair in usual if pair[0].lower() not in names] + list(headers)
        return head_bytes(method, self.run.options.target.prefix + path, lines, version)

    def request(self, method: str, path: str, headers: Headers = (), body: Optional[bytes] = None) -> Response:
        """One exchange on a connection of its own. `path` stands in the request line as it is."""
        connection = self.connection()
        sized = [*headers] if body is None else [*headers, ("Content-Length", str(len(body)))]
        try:
            connection.send(self.head(method, path, sized) + (body or b""))
            return connection.receive(method)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Response:
        """GET; keyword names are header names with _ for -."""
        return self.request("GET", path, named(headers))

    def authorised(self, token: Optional[str] = None) -> tuple[str, str]:
        return ("Authorization", f"Bearer {self.token if token is None else token}")

    def key(self, name: str) -> str:
        """A key of this check's own."""
        return f"{self.folder}/{name}"

    def download(self, key: str, **headers: str) -> Response:
        return self.get(path_of(key), **headers)

    # ------------------------------------------------------------------------------------------------ uploads

    def post(self, *parts: Part, route: str = "/v1/file", token: Optional[str] = None, **headers: str) -> Response:
        """Uploads a form of those parts."""
        return self.request("POST", route, [self.authorised(token), FORM_TYPE, *named(headers)], form(*parts))

    def upload(self, key: str, data: bytes, token: Optional[str] = None, **headers: str) -> Response:
        """Uploads `data` so that `key` results, path first."""
        where = PurePosixPath(key)
        return self.post(field("path", str(where.parent)), file(where.name, data), token=token, **headers)

    def stored(self, key: str, data: bytes, **headers: str) -> str:
        """Uploads as a preparation, and gives the key."""
        response = self.upload(key, data, None, **headers)
        if response.status != 200:
            raise DependencyFailed(f"the upload this check builds on was answered {expect.describe(response)}")
        return key

    def place(self, name: str = "sample.bin", data: bytes = SAMPLE) -> str:
        """The path of an object that is there: uploaded now, or the one that was named for a `readonly` run."""
        if self.run.options.profile != "readonly":
            return path_of(self.stored(self.key(name), data))
        if not self.run.options.objects:
            raise Untestable("needs --object PATH: this run writes nothing")
        return self.run.options.objects[0]

    def sample(self, name: str = "sample.bin", data: bytes = SAMPLE) -> Sample:
        """An object with the bytes and headers the server gives for it."""
        path = self.place(name, data)
        response = self.get(path)
        if response.status != 200:
            raise DependencyFailed(f"the object this check builds on was answered {expect.describe(response)}")
        if self.run.options.profile == "readonly":
            if not 16 <= len(response.body) <= 8 * HALF:
                raise Untestable(f"needs --object PATH of 16 bytes to 8 MiB; this one has {len(response.body)}")
        elif response.body != data:
            raise DependencyFailed("the object this check builds on came back otherwise than it was sent")
        return Sample(path, response.body, response)

    def has(self, key: str, data: bytes, context: str = "") -> Response:
        """Expects the object to be there with these bytes."""
        response = expect.status(self.download(key), 200, context=context or f"GET of {key}")
        expect.body(response, data, context or f"the content of {key}")
        return response

    def has_not(self, key: str, context: str = "") -> None:
        expect.status(self.download(key), 404, context=context or f"GET of {key}")

    def listed(self, prefix: Optional[str] = None) -> list[str]:
        """The lines of the listing; of all of it, unless a prefix is given."""
        query = "" if prefix is None else "?prefix=" + quote(prefix)
        response = expect.status(self.request("GET", "/v1/list" + query), 200, context="GET /v1/list")
        return response.body.decode("utf-8", "surrogateescape").splitlines()

    def listed_if_any(self) -> list[str]:
        """The lines of the listing, none where the server has no list."""
        capability = self.run.capabilities.get("list")
        return [] if capability is not None and capability.state == "off" else self.listed()

    # ------------------------------------------------------------------------------------------ hold and probe

    def half_sent(self, *parts: Part, content: bytes, filename: str) -> Held:
        """An upload of those parts and then a file of which half is on the wire."""
        body = form(*parts, file(filename, content))
        ending = len(f"\r\n--{BOUNDARY}--\r\n")
        cut = len(body) - ending - len(content) // 2
        connection = self.connection()
        sized = [self.authorised(), FORM_TYPE, ("Content-Length", str(len(body)))]
        connection.send(self.head("POST", "/v1/file", sized) + body[:cut])
        return Held(connection, body[cut:], content)

    def held(self, key: str, label: str) -> Held:
        """An upload of `key` under way, its path known and half of its content on the wire."""
        where = PurePosixPath(key)
        content = payload(label, 2 * HALF)
        return self.half_sent(field("path", str(where.parent)), content=content, filename=where.name)

    def waiting_reader(self, key: str) -> Optional[Connection]:
        """A download of `key` that stays unanswered for a window, None when it is answered."""
        reader = self.connection()
        reader.send(self.head("GET", path_of(key)))
        if not reader.answered_within(poll.WINDOW):
            return reader
        reader.close()
        return None

    @contextmanager
    def holding(self, key: str, label: str = "held") -> Iterator[Held]:
        """Holds an upload of `key`, if it can until its lock shows: a download of the key waits.

        No sleep: a download that is answered came before the server took the lock, so the next one is asked; one that
        stays unanswered for a window shows the lock, and stays as its witness. A server whose readers never wait
        (DL-06a judges that) has read the better part of half a MiB by then, and is probed all the same.
        """
        held = self.held(key, label)
        try:
            held.reader = self.patience.eventually("settle", lambda: self.waiting_reader(key), "a waiting download")
        except expect.Violation:
            self.transcript.note("the lock does not show: downloads do not wait for the upload")
        held.begun = History.now()
        try:
            yield held
        finally:
            held.connection.close()
            if held.reader is not None:
                held.reader.close()

    def together(self, *calls: Callable[[], None]) -> None:
        """Runs calls in threads and raises the first failure."""
        errors: list[BaseException] = []

        def guarded(call: Callable[[], None]) -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - raised again below, in the thread of the check
                errors.append(error)

        threads = [threading.Thread(target=guarded, args=(call,), daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
