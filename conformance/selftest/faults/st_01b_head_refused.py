"""HEAD is a wrong method."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference, Request


class Server(Reference):
    def answer(self, request: Request, peer: str) -> Answer:
        if request.method == "HEAD":
            return self.wrong_method(request, ["GET"])
        return super().answer(request, peer)


def witness(kci: Client) -> object:
    return kci.request("HEAD", "/").status


FAULT = Fault(
    "ST-01b",
    Server,
    witness,
    "frameworks that route HEAD only where it is declared",
    blast=(
        "DL-*",
        "DL-08a",
    ),
)
