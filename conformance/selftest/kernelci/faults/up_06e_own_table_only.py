"""Only the types of the table are known."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def other_type(self, key: str) -> str:
        return "application/octet-stream"


def witness(kci: Client) -> object:
    kci.upload(kci.key("a.html"), b"x")
    return kci.download(kci.key("a.html")).get("Content-Type")


FAULT = Fault("UP-06e", Server, witness, "kernelci-storage 0.2.1")
