"""The 401 of the archive route is plain text."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def archive(self, request: Request) -> Answer:
        self.authenticate(request)
        return super().archive(request)


def witness(kci: Client) -> object:
    return kci.request("POST", "/v1/archive", body=b"").get("Content-Type")


FAULT = Fault("AR-02h", Server, witness, "a token that is checked before the route")
