"""GET of what is no SHA-256 is 400."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Refused, Request
from conformance.stor.client import Client


class Server(Reference):
    def download(self, request: Request) -> Answer:
        if self.name(request.path) is None:
            raise Refused(400, "Not a SHA-256")
        return super().download(request)


def witness(stor: Client) -> object:
    return stor.get("/no-sha256").status


FAULT = Fault(
    "SO-02c",
    Server,
    witness,
    "a constraint of the route that answers for itself",
    blast=(
        "RB-1*",
        "SO-02*",
        "DL-04a",
        "DL-01e",
    ),
)
