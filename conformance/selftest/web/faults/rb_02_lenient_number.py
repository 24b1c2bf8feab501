"""A length with a sign is read."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def content_length(self, value: str) -> int:
        try:
            return max(0, int(value))
        except ValueError:
            return super().content_length(value)


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(web.head("POST", "/", [("Content-Length", "+5")]) + b"12345")
    return connection.receive("POST").status


FAULT = Fault("RB-02", Server, witness, "int(), which reads +5 and 5_0")
