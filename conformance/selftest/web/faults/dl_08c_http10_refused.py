"""An HTTP/1.0 request without Host is refused."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def check_host(self, headers: dict[str, str], minor: int) -> None:
        super().check_host(headers, 1)


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(b"GET / HTTP/1.0\r\n\r\n")
    return connection.receive().status


FAULT = Fault("DL-08c", Server, witness, "a strict head parser")
