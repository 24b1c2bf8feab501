"""If-Range is not read: a resumed download joins two versions."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference, Request, Stored


class Server(Reference):
    def if_range(self, request: Request, stored: Stored) -> bool:
        return True


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, Range="bytes=2-5", If_Range='"other"').status


FAULT = Fault("DL-05i", Server, witness, "kernelci-storage 0.2.1")
