"""Servers that are none. No MUST check may pass on any of them: a check that does cannot fail."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Optional

Handler = Callable[[socket.socket], None]


def _requests(sock: socket.socket) -> Iterator[bytes]:
    """What comes, in pieces that end where a head ends."""
    sock.settimeout(5)
    while True:
        try:
            data = sock.recv(1 << 16)
        except OSError:
            return
        if not data:
            return
        yield data


def _always(answer: bytes) -> Handler:
    def handle(sock: socket.socket) -> None:
        for _ in _requests(sock):
            sock.sendall(answer)

    return handle


def _answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _echo(sock: socket.socket) -> None:
    for data in _requests(sock):
        sock.sendall(_answer("200 OK", data))


def _hang(sock: socket.socket) -> None:
    for _ in _requests(sock):
        continue


def _close(sock: socket.socket) -> None:
    sock.recv(1 << 16)


def _random(sock: socket.socket) -> None:
    source = random.Random(7)
    for _ in _requests(sock):
        sock.sendall(bytes(source.randrange(256) for _ in range(200)))


_KNOWN: dict[str, Handler] = {
    "always-200": _always(_answer("200 OK")),
    "always-201": _always(_answer("201 Created", b'["/data"]', "Content-Type: application/json")),
    "always-400": _always(_answer("400 Bad Request", b"Bad Request\n")),
    "always-401": _always(_answer("401 Unauthorized", b"Unauthorized\n", "WWW-Authenticate: Bearer")),
    "always-404": _always(_answer("404 Not Found", b"Not Found\n")),
    "always-500": _always(_answer("500 Oops")),
    "echo": _echo,
    "hang": _hang,
    "close": _close,
    "empty-206": _always(_answer("206 Partial Content")),
    "random": _random,
}


SILENT = ("hang", "random")  # against which every check waits as long as it may


def handlers(banner: str) -> dict[str, Handler]:
    """All of them by name; one knows the banner of the protocol and answers everything with it."""
    greeting = _answer("200 OK", f"{banner}\n".encode(), "Content-Type: text/plain")
    return {**_KNOWN, "always-200-text": _always(greeting)}


@contextmanager
def listening(handler: Handler) -> Iterator[int]:
    """Serves with that handler in threads; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def one(sock: socket.socket) -> None:
        with sock:
            try:
                handler(sock)
            except OSError:
                return  # the client is gone

    def accept() -> None:
        while True:
            try:
                sock: Optional[socket.socket] = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=one, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
