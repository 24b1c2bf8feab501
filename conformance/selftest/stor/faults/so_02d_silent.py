"""The 412 does not say what was given."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Refused, Request
from conformance.stor.client import Client


class Server(Reference):
    def post_name(self, request: Request) -> str:
        if self.name(request.path) is None:
            raise Refused(412, "Precondition Failed")
        return super().post_name(request)


def witness(stor: Client) -> object:
    return stor.post("/no-sha256", b"x").text


FAULT = Fault("SO-02d", Server, witness, "the reason of the status as the text")
