"""The usual scheme word is refused where tokens are checked."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Refused, Request


class Server(Reference):
    def checkauth(self, request: Request) -> Answer:
        if request.headers.get("authorization", "").startswith("Bearer "):
            raise Refused(401, "Unauthorized", self.authenticate_headers())
        return super().checkauth(request)


def witness(kci: Client) -> object:
    return kci.request("GET", "/v1/checkauth", [kci.authorised()]).status


FAULT = Fault("AU-01a", Server, witness, "a server that expects `Token`", blast=("AU-*",))
