"""A method nobody knows is 405."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference, Request


class Server(Reference):
    def unknown_method(self, request: Request) -> Answer:
        return self.wrong_method(request, ["GET"])


def witness(kci: Client) -> object:
    return kci.request("BREW", "/").status


FAULT = Fault("ST-02c", Server, witness, "kernelci-storage 0.2.1")
