"""A name outside ASCII is sent with question marks."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def safe_name(self, name: str) -> str:
        return super().safe_name(name).encode("ascii", "replace").decode()


def witness(kci: Client) -> object:
    return kci.download(kci.stored(kci.key("\u00fc"), b"x")).get("Content-Disposition")


FAULT = Fault("DL-02a", Server, witness, "headers that are encoded as latin-1")
