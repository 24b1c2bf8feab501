"""What is no form is refused as such, whoever asks."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        self.boundary(request)
        return super().upload(request)


def witness(kci: Client) -> object:
    return kci.request("POST", "/v1/file", [("Content-Type", "text/plain")], b"x").status


FAULT = Fault("AU-05b", Server, witness, "frameworks that parse the form before the handler runs")
