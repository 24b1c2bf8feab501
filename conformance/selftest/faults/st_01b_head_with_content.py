"""HEAD is answered with content, which the client takes for the next answer."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference, Request, Wire


class Server(Reference):
    def send(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        as_get = request._replace(method="GET") if request is not None else None
        super().send(wire, as_get, answer)


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(kci.head("HEAD", "/") + kci.head("GET", "/"))
    connection.receive("HEAD")
    return connection.receive().status


FAULT = Fault("ST-01b", Server, witness, "http.server handlers that share do_GET", blast=("*",))
