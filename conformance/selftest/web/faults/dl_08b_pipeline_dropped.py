"""What was sent behind a request is lost."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Request, WebServer, Wire
from conformance.web.client import Client


class Server(WebServer):
    def send(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        super().send(wire, request, answer)
        wire.buffer.clear()


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(web.head("GET", "/") * 2)
    connection.receive()
    return connection.answered_within(0.5)


FAULT = Fault("DL-08b", Server, witness, "a buffer that is thrown away behind each request", blast=("*",))
