"""If-None-Match is judged before If-Match."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault, without
from conformance.selftest.reference import Reference, Request, Stored


class Server(Reference):
    def precondition(self, request: Request, stored: Stored) -> int:
        bare = without(without(request, "if-match"), "if-unmodified-since")
        first = super().precondition(bare, stored)
        return first if first == 304 else super().precondition(request, stored)


def witness(kci: Client) -> object:
    sample = kci.sample()
    return kci.get(sample.path, If_Match='"other"', If_None_Match=sample.etag).status


FAULT = Fault("DL-04g", Server, witness, "conditions in the order of their fame")
