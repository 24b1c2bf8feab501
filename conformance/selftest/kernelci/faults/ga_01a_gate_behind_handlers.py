"""The gate stands only before objects."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Request


class Server(Reference):
    def admit(self, request: Request, peer: str) -> None:
        if request.path not in self.routes():
            super().admit(request, peer)


def witness(kci: Client) -> object:
    return kci.get("/", User_Agent="CCBot/2.0").status


FAULT = Fault(
    "GA-01a",
    Server,
    witness,
    "a filter that wraps the download handler only",
    blast=(
        "GA-01b",
        "GA-02a",
        "GA-03*",
    ),
)
