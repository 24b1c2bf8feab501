"""Of two lengths the last one counts."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def repeated(self, name: str, first: str, second: str) -> str:
        return second if name == "content-length" else super().repeated(name, first, second)


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(web.head("POST", "/", [("Content-Length", "6"), ("Content-Length", "5")]) + b"12345")
    return connection.receive("POST").status


FAULT = Fault("RB-02", Server, witness, "headers in a dictionary")
