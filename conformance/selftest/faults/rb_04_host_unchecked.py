"""Host may be missing."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference


class Server(Reference):
    def check_host(self, headers: dict[str, str], minor: int) -> None:
        return


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(b"GET / HTTP/1.1\r\n\r\n")
    return connection.receive().status


FAULT = Fault("RB-04", Server, witness, "servers with one host")
