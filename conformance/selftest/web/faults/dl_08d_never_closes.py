"""Connection: close is not honoured."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Request, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def keeps(self, request: Request) -> bool:
        return True


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(web.head("GET", "/", [("Connection", "close")]))
    connection.receive()
    return connection.ended_within(0.5)


FAULT = Fault("DL-08d", Server, witness, "a header that is not read", blast=("DL-08c",))
