"""The list does not say that it is UTF-8."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def listing_type(self) -> str:
        return "text/plain"


def witness(kci: Client) -> object:
    return kci.get("/v1/list").get("Content-Type")


FAULT = Fault("LS-01c", Server, witness, "a default type")
