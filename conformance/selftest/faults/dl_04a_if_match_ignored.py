"""If-Match is not read."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault, without
from conformance.selftest.reference import Reference, Request, Stored


class Server(Reference):
    def precondition(self, request: Request, stored: Stored) -> int:
        return super().precondition(without(request, "if-match"), stored)


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, If_Match='"other"').status


FAULT = Fault("DL-04a", Server, witness, "kernelci-storage 0.2.1", blast=("DL-04*",))
