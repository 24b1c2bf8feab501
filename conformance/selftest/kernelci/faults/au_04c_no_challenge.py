"""The 401 has no WWW-Authenticate."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Headers


class Server(Reference):
    def authenticate_headers(self) -> Headers:
        return []


def witness(kci: Client) -> object:
    return kci.get("/v1/checkauth").get("WWW-Authenticate")


FAULT = Fault("AU-04c", Server, witness, "kernelci-storage 0.2.1")
