"""POST to what is no SHA-256 is 404."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Request
from conformance.stor.client import Client


class Server(Reference):
    def post_name(self, request: Request) -> str:
        if self.name(request.path) is None:
            raise self.missing(request.path[1:])
        return super().post_name(request)


def witness(stor: Client) -> object:
    return stor.post("/no-sha256", b"x").status


FAULT = Fault(
    "SO-02d",
    Server,
    witness,
    "one check for both methods",
    blast=(
        "SO-03*",
        "RB-08",
    ),
)
