"""The bare token is refused."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Request


class Server(Reference):
    def credential(self, request: Request) -> str:
        words = request.headers.get("authorization", "").split(" ")
        return words[1] if len(words) == 2 else ""


def witness(kci: Client) -> object:
    return kci.request("GET", "/v1/checkauth", [("Authorization", kci.token)]).status


FAULT = Fault("AU-01c", Server, witness, "every other JWT middleware")
