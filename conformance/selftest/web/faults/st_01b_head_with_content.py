"""HEAD is answered with content, which the client takes for the next answer."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Request, WebServer, Wire
from conformance.web.client import Client


class Server(WebServer):
    def send(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        as_get = request._replace(method="GET") if request is not None else None
        super().send(wire, as_get, answer)


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(web.head("HEAD", "/") + web.head("GET", "/"))
    connection.receive("HEAD")
    return connection.receive().status


FAULT = Fault("ST-01b", Server, witness, "http.server handlers that share do_GET", blast=("*",))
