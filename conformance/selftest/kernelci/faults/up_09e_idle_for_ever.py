"""An upload that says nothing holds its lock for ever."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def idle_limit(self) -> float:
        return 600.0


def witness(kci: Client) -> object:
    return kci.held(kci.key("a"), "x").connection.answered_within(3.0)


FAULT = Fault("UP-09e", Server, witness, "a socket without a timeout")
