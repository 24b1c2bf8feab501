"""Another scheme word is refused."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Request


class Server(Reference):
    def credential(self, request: Request) -> str:
        words = request.headers.get("authorization", "").split(" ")
        return words[-1] if len(words) == 1 or words[0] == "Bearer" else ""


def witness(kci: Client) -> object:
    return kci.request("GET", "/v1/checkauth", [("Authorization", f"Token {kci.token}")]).status


FAULT = Fault("AU-01b", Server, witness, "every other JWT middleware")
