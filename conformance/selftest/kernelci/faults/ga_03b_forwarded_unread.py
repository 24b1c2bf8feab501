"""The header Forwarded is not read."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Request


class Server(Reference):
    def forwarded(self, request: Request) -> list[str]:
        return super().forwarded(request) if "x-forwarded-for" in request.headers else []


def witness(kci: Client) -> object:
    return kci.get("/", Forwarded="for=192.0.2.7").status


FAULT = Fault("GA-03b", Server, witness, "servers older than RFC 7239")
