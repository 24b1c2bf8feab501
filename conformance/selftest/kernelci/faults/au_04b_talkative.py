"""The 401 explains the token library."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused, Request


class Server(Reference):
    def authenticate(self, request: Request) -> str:
        try:
            return super().authenticate(request)
        except Refused as refused:
            raise Refused(401, "Signature verification failed", refused.headers) from None


def witness(kci: Client) -> object:
    return kci.get("/v1/checkauth").text


FAULT = Fault("AU-04b", Server, witness, "an exception's text as the answer")
