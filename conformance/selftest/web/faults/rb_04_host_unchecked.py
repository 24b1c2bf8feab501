"""Host may be missing."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def check_host(self, headers: dict[str, str], minor: int) -> None:
        return


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(b"GET / HTTP/1.1\r\n\r\n")
    return connection.receive().status


FAULT = Fault("RB-04", Server, witness, "servers with one host")
