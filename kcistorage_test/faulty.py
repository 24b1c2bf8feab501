"""A proxy in front of a blob service that fails as it is told: for tests of the servers behind it.

It passes requests on and answers back, one by one and whole, and remembers what it heard. `order` makes the requests of
a kind fail. What is signed in a request is its path, so that the service takes it from the proxy as from anybody.
"""

from __future__ import annotations

import contextlib
import itertools
import socketserver
import struct
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, parse_headers
from socket import SO_LINGER, SOL_SOCKET, socket
from typing import Callable, NamedTuple, Optional
from urllib.parse import parse_qs, unquote, urlsplit

OF_ONE_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")


class Heard(NamedTuple):
    """A request."""

    method: str
    target: str
    headers: dict[str, str]  # names in small letters
    body: bytes

    @property
    def key(self) -> str:
        """The blob's name, "" where it is about the container: the path has account and container before it."""
        return unquote("/".join(urlsplit(self.target).path.split("/")[3:]))

    @property
    def comp(self) -> str:
        """What Azure calls the part of a blob or container that is meant: block, blocklist, list."""
        return parse_qs(urlsplit(self.target).query).get("comp", [""])[0]

    @property
    def start(self) -> int:
        """The first byte that a range asks for."""
        return int(self.headers.get("range", "bytes=0-").partition("=")[2].partition("-")[0])


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]  # Content-Length is made from `length`
    body: bytes
    length: int  # bytes that are announced

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} x", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, f"Content-Length: {self.length}", "", ""]).encode("latin-1")


class Call:
    """A request, and what a fault may do about it."""

    def __init__(self, heard: Heard, client: socket, ask: Callable[[Heard], Answer]) -> None:
        self.heard, self.client, self._ask = heard, client, ask

    def answer(self) -> Answer:
        """What the service says. Raises OSError or HTTPException where it says nothing."""
        return self._ask(self.heard)

    def send(self, answer: Answer) -> None:
        self.client.sendall(answer.head() + (b"" if self.heard.method == "HEAD" else answer.body))


Hits = Callable[[Heard], bool]
Fault = Callable[[Call], bool]  # says whether the connection goes on


# ---- Faults


def pass_on(call: Call) -> bool:
    """No fault."""
    call.send(call.answer())
    return True


def say(status: int, code: str = "") -> Fault:
    """Refuses without asking the service."""

    def fault(call: Call) -> bool:
        call.send(Answer(status, [("x-ms-error-code", code)] if code else [], b"", 0))
        return True

    return fault


def be_silent(call: Call) -> bool:
    """Says nothing, until the client has enough of it."""
    while call.client.recv(65_536):
        continue
    return False


def lose_answer(call: Call) -> bool:
    """The service does it, and nobody hears of it."""
    call.answer()
    return False


def reset(call: Call) -> bool:
    call.client.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    return False


def cut(size: int) -> Fault:
    """Hangs up after so many bytes of the body."""

    def fault(call: Call) -> bool:
        answer = call.answer()
        call.send(answer._replace(body=answer.body[:size]))
        return False

    return fault


def misstate_length(more: int) -> Fault:
    """Announces so many bytes more than there are, or fewer; then hangs up."""

    def fault(call: Call) -> bool:
        answer = call.answer()
        call.send(answer._replace(length=answer.length + more))
        return False

    return fault


class Gate:
    """A fault that holds requests up until it is opened; then they are passed on, or have `then`."""

    def __init__(self, then: Fault = pass_on) -> None:
        self._then, self._arrived, self._opened = then, threading.Semaphore(0), threading.Event()

    def __call__(self, call: Call) -> bool:
        self._arrived.release()
        assert self._opened.wait(30), "a gate was never opened"
        return self._then(call)

    def await_arrivals(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._arrived.acquire(timeout=20), "a request never came"

    def open(self) -> None:
        self._opened.set()


class Order(NamedTuple):
    hits: Hits
    fault: Fault
    times: Iterator[object]


# ---- The proxy


class Conversation(socketserver.StreamRequestHandler):
    """One connection, with one of its own to the service."""

    server: Faulty

    def setup(self) -> None:
        super().setup()
        self.service = HTTPConnection(self.server.service, timeout=30)

    def finish(self) -> None:
        self.service.close()
        super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError, HTTPException):  # the client is gone, or the service is: hang up
            while line := self.rfile.readline().decode("latin-1"):
                method, target, _ = line.split()
                headers = {name.lower(): value for name, value in parse_headers(self.rfile).items()}
                body = self.rfile.read(int(headers.get("content-length", "0")))
                if not self.server.meet(Call(Heard(method, target, headers, body), self.connection, self.ask)):
                    return

    def ask(self, heard: Heard) -> Answer:
        headers = {name: value for name, value in heard.headers.items() if name not in OF_ONE_HOP}
        self.service.request(heard.method, heard.target, heard.body or None, headers)
        response = self.service.getresponse()
        told = [(name, value) for name, value in response.headers.items() if name.lower() not in OF_ONE_HOP]
        body = response.read()
        return Answer(response.status, told, body, int(response.headers["Content-Length"] or len(body)))


class Faulty(socketserver.ThreadingTCPServer):
    """The proxy, serving from the beginning; `service` is the URL of the account. Any thread may call."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, service: str) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.service = urlsplit(service).netloc
        self.url = f"http://127.0.0.1:{self.server_address[1]}{urlsplit(service).path}"
        self.heard: list[Heard] = []
        self._orders: list[Order] = []
        self._gates: list[Gate] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def order(self, hits: Hits, fault: Fault, times: Optional[int] = None) -> None:
        """The next `times` requests that it hits have this fault, or all; of several orders the first counts."""
        with self._lock:
            self._orders.append(Order(hits, fault, itertools.repeat(0) if times is None else iter(range(times))))

    def gate(self, hits: Hits, then: Fault = pass_on) -> Gate:
        """Requests that it hits stop there."""
        gate = Gate(then)
        self._gates.append(gate)
        self.order(hits, gate)
        return gate

    def recover(self) -> None:
        """From now on it has no faults."""
        with self._lock:
            self._orders.clear()

    def meet(self, call: Call) -> bool:
        """Says whether the connection goes on."""
        with self._lock:
            self.heard.append(call.heard)
            fault = next((order.fault for order in self._orders if self._applies(order, call.heard)), pass_on)
        return fault(call)

    @staticmethod
    def _applies(order: Order, heard: Heard) -> bool:
        return order.hits(heard) and next(order.times, None) is not None

    def handle_error(self, request: object, client_address: object) -> None:
        """A fault of the proxy's own: it is heard of when the test looks for what it did not do."""

    def close(self) -> None:
        for gate in self._gates:
            gate.open()
        self.shutdown()
        self.server_close()
        self._thread.join(5)
