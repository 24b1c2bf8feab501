"""There is no filename* for names outside ASCII."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def extended_name(self, name: str) -> str:
        return ""


def witness(kci: Client) -> object:
    return kci.download(kci.stored(kci.key("\u00fc"), b"x")).get("Content-Disposition")


FAULT = Fault("DL-02b", Server, witness, "kernelci-storage 0.2.1")
