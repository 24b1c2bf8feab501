"""A 304 is followed by the content."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Request, WebServer, Wire
from conformance.web.client import Client


class Server(WebServer):
    def send(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        super().send(wire, request, answer)
        if answer.status == 304:
            wire.sock.sendall(answer.body)


def witness(web: Client) -> object:
    sample = web.sample()
    connection = web.connection()
    connection.send(web.head("GET", sample.path, [("If-None-Match", sample.etag)]) + web.head("GET", "/"))
    connection.receive()
    return connection.receive().status


FAULT = Fault("DL-04f", Server, witness, "a handler that writes before it looks at the status", blast=("*",))
