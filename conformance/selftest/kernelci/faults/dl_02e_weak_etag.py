"""The ETag is weak: nothing can be resumed with it."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def etag(self, key: str, data: bytes, version: int) -> str:
        return "W/" + super().etag(key, data, version)


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path).get("ETag")


FAULT = Fault(
    "DL-02e",
    Server,
    witness,
    "a proxy that compresses",
    blast=(
        "DL-04*",
        "DL-05*",
    ),
)
