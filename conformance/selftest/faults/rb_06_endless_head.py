"""A head of any length is collected."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference


class Server(Reference):
    def head_limit(self) -> int:
        return 1 << 30


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(b"GET /" + b"a" * 100_000)
    return connection.answered_within(0.5)


FAULT = Fault("RB-06", Server, witness, "readline without a limit")
