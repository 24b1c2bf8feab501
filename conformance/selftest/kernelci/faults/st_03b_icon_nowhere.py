"""The redirect of the icon has no Location."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def favicon(self, request: Request) -> Answer:
        return self.text(301, "Moved")


def witness(kci: Client) -> object:
    return kci.get("/favicon.ico").get("Location")


FAULT = Fault("ST-03b", Server, witness, "kernelci-storage 0.2.1")
