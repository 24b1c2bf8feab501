"""Connection: close is not honoured."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference, Request


class Server(Reference):
    def keeps(self, request: Request) -> bool:
        return True


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(kci.head("GET", "/", [("Connection", "close")]))
    connection.receive()
    return connection.ended_within(0.5)


FAULT = Fault("DL-08d", Server, witness, "a header that is not read", blast=("DL-08c",))
