"""The whole list is sent whatever the prefix."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def listing(self, request: Request) -> Answer:
        return super().listing(request._replace(target=request.path))


def witness(kci: Client) -> object:
    kci.stored(kci.key("a"), b"x")
    return kci.listed("no such prefix")


FAULT = Fault("LS-01d", Server, witness, "kernelci-storage 0.2.1")
