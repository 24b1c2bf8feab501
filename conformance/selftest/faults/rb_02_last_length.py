"""Of two lengths the last one counts."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference


class Server(Reference):
    def repeated(self, name: str, first: str, second: str) -> str:
        return second if name == "content-length" else super().repeated(name, first, second)


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(kci.head("POST", "/v1/file", [("Content-Length", "6"), ("Content-Length", "5")]) + b"12345")
    return connection.receive("POST").status


FAULT = Fault("RB-02", Server, witness, "headers in a dictionary")
