"""A label has no quotes."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference


class Server(Reference):
    def metrics_text(self) -> str:
        return super().metrics_text().replace('"reference"', "reference")


def witness(kci: Client) -> object:
    return kci.get("/metrics").text


FAULT = Fault("MT-01a", Server, witness, "metrics by string formatting", blast=("MT-*",))
