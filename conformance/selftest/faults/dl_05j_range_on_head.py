"""HEAD with a Range is 206."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference, Request, Stored


class Server(Reference):
    def served(self, request: Request, key: str, stored: Stored) -> Answer:
        return super().served(request._replace(method="GET"), key, stored)


def witness(kci: Client) -> object:
    return kci.request("HEAD", kci.sample().path, [("Range", "bytes=2-5")]).status


FAULT = Fault("DL-05j", Server, witness, "one handler for both methods")
