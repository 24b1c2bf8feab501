"""A weak tag in If-None-Match never matches."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault, with_header
from conformance.selftest.reference import Reference, Request, Stored


class Server(Reference):
    def precondition(self, request: Request, stored: Stored) -> int:
        value = request.headers.get("if-none-match", "").replace(f"W/{stored.etag}", '"weak"')
        return (
            super().precondition(with_header(request, "if-none-match", value), stored)
            if value
            else super().precondition(request, stored)
        )


def witness(kci: Client) -> object:
    sample = kci.sample()
    return kci.get(sample.path, If_None_Match=f"W/{sample.etag}").status


FAULT = Fault("DL-04c", Server, witness, "one comparison for both headers", blast=("DL-04*",))
