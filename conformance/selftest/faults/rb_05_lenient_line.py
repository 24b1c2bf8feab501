"""A request line with blanks too many is read."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference


class Server(Reference):
    def request_line(self, line: bytes) -> tuple[str, str, int]:
        return super().request_line(b" ".join(line.split()))


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n")
    return connection.receive().status


FAULT = Fault("RB-05", Server, witness, "split()")
