"""The space has no label mount_point."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def metrics_text(self) -> str:
        return super().metrics_text().replace(',mount_point="/"', "")


def witness(kci: Client) -> object:
    return kci.get("/metrics").text


FAULT = Fault("MT-01b", Server, witness, "a label that was forgotten")
