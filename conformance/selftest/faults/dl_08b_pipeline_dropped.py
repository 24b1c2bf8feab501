"""What was sent behind a request is lost."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference, Request, Wire


class Server(Reference):
    def send(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        super().send(wire, request, answer)
        wire.buffer.clear()


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(kci.head("GET", "/") * 2)
    connection.receive()
    return connection.answered_within(0.5)


FAULT = Fault("DL-08b", Server, witness, "a buffer that is thrown away behind each request", blast=("*",))
