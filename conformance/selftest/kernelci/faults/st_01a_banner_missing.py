"""GET / shows another text."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def banner(self, request: Request) -> Answer:
        return self.text(200, "It works!")


def witness(kci: Client) -> object:
    return kci.get("/").text


FAULT = Fault("ST-01a", Server, witness, "a fresh server behind a default page")
