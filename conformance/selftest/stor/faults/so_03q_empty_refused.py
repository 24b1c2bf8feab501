"""An empty body is 400."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Refused, Request
from conformance.stor.client import Client, path_of


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        if request.body.ended:
            self.post_name(request)
            self.authenticate(request)
            raise Refused(400, "Nothing to store")
        return super().upload(request)


def witness(stor: Client) -> object:
    return stor.post(path_of(b""), b"").status


FAULT = Fault(
    "SO-03q",
    Server,
    witness,
    "`if not body`",
    blast=(
        "DL-05k",
        "SO-03h",
        "SO-03o",
    ),
)
