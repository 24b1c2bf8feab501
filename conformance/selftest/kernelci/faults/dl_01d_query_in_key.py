"""A query makes another key."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Refused, Request


class Server(Reference):
    def download(self, request: Request) -> Answer:
        if request.query:
            raise Refused(404, "Not Found")
        return super().download(request)


def witness(kci: Client) -> object:
    return kci.get("/" + kci.stored(kci.key("a"), b"x") + "?x=y").status


FAULT = Fault("DL-01d", Server, witness, "a target that is never split", blast=("GA-04g",))
