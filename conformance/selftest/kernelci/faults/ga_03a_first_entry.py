"""The first entry of X-Forwarded-For is believed, which the client itself wrote."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Request


class Server(Reference):
    def client_address(self, request: Request, peer: str) -> str:
        hops = self.forwarded(request)
        return hops[0] if hops else peer


def witness(kci: Client) -> object:
    return kci.get("/", X_Forwarded_For="192.0.2.7, 198.51.100.1").status


FAULT = Fault("GA-03a", Server, witness, "kernelci-storage 0.2.1")
