"""What is no date counts as the present."""

from __future__ import annotations

from conformance.core import oracle
from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference, Request, Stored


class Server(Reference):
    def precondition(self, request: Request, stored: Stored) -> int:
        value = request.headers.get("if-modified-since")
        if value is not None and oracle.http_date(value) is None and "if-none-match" not in request.headers:
            return 304
        return super().precondition(request, stored)


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, If_Modified_Since="yesterday").status


FAULT = Fault("DL-04e", Server, witness, "a parser with a default")
