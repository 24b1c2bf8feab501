"""A request line with words too many is read."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def request_line(self, line: bytes) -> tuple[str, str, int]:
        words = line.split()
        return super().request_line(b" ".join((words[0], words[1], words[-1])))


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n")
    return connection.receive().status


FAULT = Fault("RB-05", Server, witness, "split(), of which only the first and the last words are used")
