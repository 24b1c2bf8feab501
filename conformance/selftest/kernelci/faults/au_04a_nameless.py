"""The answer does not say whose token it is."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def checkauth(self, request: Request) -> Answer:
        self.authenticate(request)
        return self.text(200, "Authorized")


def witness(kci: Client) -> object:
    return kci.request("GET", "/v1/checkauth", [kci.authorised()]).text


FAULT = Fault("AU-04a", Server, witness, "a handler that only says yes")
