"""robots.txt allows everything."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def robots(self, request: Request) -> Answer:
        return self.text(200, "User-agent: *\nDisallow:")


def witness(kci: Client) -> object:
    return kci.get("/robots.txt").text


FAULT = Fault("ST-03a", Server, witness, "a default robots.txt")
