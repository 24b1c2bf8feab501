"""The types are those of a common table."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def type_of(self, key: str) -> str:
        return self.other_type(key)


def witness(kci: Client) -> object:
    kci.upload(kci.key("a.lz"), b"x")
    return kci.download(kci.key("a.lz")).get("Content-Type")


FAULT = Fault(
    "UP-06a",
    Server,
    witness,
    "the table of the standard library",
    blast=(
        "UP-06*",
        "AR-01d",
    ),
)
