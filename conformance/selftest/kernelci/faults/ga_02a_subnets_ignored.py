"""No subnet is blocked."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def subnet_blocked(self, address: str) -> bool:
        return False


def witness(kci: Client) -> object:
    return kci.get("/", X_Forwarded_For="192.0.2.7").status


FAULT = Fault("GA-02a", Server, witness, "a gate that is configured and not called", blast=("GA-03*",))
