"""A length with a sign is read."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference


class Server(Reference):
    def content_length(self, value: str) -> int:
        try:
            return max(0, int(value))
        except ValueError:
            return super().content_length(value)


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(kci.head("POST", "/v1/file", [("Content-Length", "+5")]) + b"12345")
    return connection.receive("POST").status


FAULT = Fault("RB-02", Server, witness, "int(), which reads +5 and 5_0")
