"""The client of the shared checks: connections, requests, and what a protocol tells of itself."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional

from conformance.core import expect
from conformance.core.history import History
from conformance.core.plugin import Run
from conformance.core.registry import Check
from conformance.core.transcript import Transcript
from conformance.core.verdict import DependencyFailed, Untestable
from conformance.core.wire import Connection, Headers, Response, head_bytes

SAMPLE = random.Random(9110).randbytes(1287)  # not periodic: a wrong offset shows
HALF = 1 << 20  # what a held upload has sent: more than a server keeps in one buffer


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


@dataclass(frozen=True)
class Storing:
    """A request that stores an object which was never there before. Its framing is what the caller makes it."""

    path: str  # where the object is when the request was understood
    content: bytes  # of the object
    body: bytes  # of the request
    head: Callable[[Headers], bytes]  # from the headers of the framing to the bytes of the request head
    status: int  # of the answer when all is well

    def sized(self) -> bytes:
        """The whole request, framed by its length."""
        return self.head([("Content-Length", str(len(self.body)))]) + self.body


class Refusal(NamedTuple):
    """A request without content that is refused, always with the same status."""

    method: str
    path: str
    status: int


class Unread(NamedTuple):
    """A request that is answered without a look at its content, and with which statuses."""

    name: str
    method: str
    path: str
    headers: Headers
    statuses: tuple[int, ...]


def named(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name.replace("_", "-").title(), value) for name, value in headers.items()]


class Client:
    """One check's view of the server. Connections it opened are closed at the end of the check.

    A protocol extends it. Methods may be called from several threads, a Connection only from one.
    """

    routes: Sequence[str] = ()  # that answer GET; the last one with an error
    wrong_methods: Sequence[tuple[str, str]] = ()  # method and path of a route that has other methods
    refusal: Refusal
    not_an_object: str  # a path that is no route and can hold no object

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

    def lever(self, name: str) -> str:
        value = self.run.options.levers.get(name)
        if not value:
            raise Untestable(f"needs --lever {name}=COMMAND (kill -9, start again, return when it answers)")
        return value

    def restart(self) -> None:
        """Kills the server and starts it again by the lever."""
        done = subprocess.run(self.lever("restart"), shell=True, capture_output=True, timeout=120, check=False)
        if done.returncode:
            raise Untestable(f"the lever restart ended with {done.returncode}: {done.stderr.decode()[-200:]}")
        self.patience.eventually("answer", lambda: self.run.alive() or None, "the server after its restart")

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

    # ------------------------------------------------------------------------------------------------ objects

    def storing(self, name: str) -> Storing:
        """A request that stores an object of this check's own."""
        raise NotImplementedError

    def stored_as(self, name: str, data: bytes) -> str:
        """Stores as a preparation, and gives the path. Raises DependencyFailed."""
        raise NotImplementedError

    def missing(self) -> str:
        """The path of an object that could be there, and is not."""
        raise NotImplementedError

    def unread(self) -> Sequence[Unread]:
        """Requests that the server may answer before it has read their content."""
        raise NotImplementedError

    def place(self, name: str = "sample.bin", data: bytes = SAMPLE) -> str:
        """The path of an object that is there: stored now, or the one that was named for a `readonly` run."""
        if self.run.options.profile != "readonly":
            return self.stored_as(name, data)
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

    # ------------------------------------------------------------------------------------------------ threads

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
