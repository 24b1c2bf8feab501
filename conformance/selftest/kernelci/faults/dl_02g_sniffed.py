"""A browser may guess another type."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Headers, Stored


class Server(Reference):
    def object_headers(self, key: str, stored: Stored) -> Headers:
        return [pair for pair in super().object_headers(key, stored) if pair[0] != "X-Content-Type-Options"]


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path).get("X-Content-Type-Options")


FAULT = Fault("DL-02g", Server, witness, "a header that was forgotten")
