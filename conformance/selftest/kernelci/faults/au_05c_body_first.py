"""The refusal waits for the whole body."""

from __future__ import annotations

from conformance.kernelci.client import FORM_TYPE, Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused, Request


class Server(Reference):
    def authenticate(self, request: Request) -> str:
        try:
            return super().authenticate(request)
        except Refused:
            while request.body.some():
                continue
            raise


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(kci.head("POST", "/v1/file", [FORM_TYPE, ("Content-Length", "9")]))
    return connection.answered_within(0.3)


FAULT = Fault("AU-05c", Server, witness, "frameworks that spool the body before the handler runs")
