"""If-None-Match is compared as one string."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault, with_header
from conformance.selftest.reference import Reference, Request, Stored


class Server(Reference):
    def precondition(self, request: Request, stored: Stored) -> int:
        value = request.headers.get("if-none-match")
        if value is not None and value != stored.etag:
            return super().precondition(with_header(request, "if-none-match", '"never"'), stored)
        return super().precondition(request, stored)


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, If_None_Match="*").status


FAULT = Fault("DL-04c", Server, witness, "kernelci-storage 0.2.1", blast=("DL-04*",))
