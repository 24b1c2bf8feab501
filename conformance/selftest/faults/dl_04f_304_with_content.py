"""A 304 is followed by the content."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference, Request, Wire


class Server(Reference):
    def send(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        super().send(wire, request, answer)
        if answer.status == 304:
            wire.sock.sendall(answer.body)


def witness(kci: Client) -> object:
    sample = kci.sample()
    connection = kci.connection()
    connection.send(kci.head("GET", sample.path, [("If-None-Match", sample.etag)]) + kci.head("GET", "/"))
    connection.receive()
    return connection.receive().status


FAULT = Fault("DL-04f", Server, witness, "a handler that writes before it looks at the status", blast=("*",))
