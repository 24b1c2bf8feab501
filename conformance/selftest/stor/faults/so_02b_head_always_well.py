"""HEAD does not look at the storages."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client


class Server(Reference):
    def download(self, request: Request) -> Answer:
        name = self.name(request.path)
        if request.method == "HEAD" and name is not None and not self.stored(name):
            return Answer(200)
        return super().download(request)


def witness(stor: Client) -> object:
    return stor.request("HEAD", stor.missing()).status


FAULT = Fault(
    "SO-02b",
    Server,
    witness,
    "a router that answers HEAD by itself",
    blast=(
        "SO-02f",
        "SO-04c",
        "SO-04j",
        "SO-07e",
        "ST-01b",
    ),
)
