"""The list is sorted without regard to case."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def in_order(self, keys: list[str]) -> list[str]:
        return sorted(keys, key=str.lower)


def witness(kci: Client) -> object:
    for name in ("b", "A", "a", "B"):
        kci.stored(kci.key(name), b"x")
    return kci.listed()


FAULT = Fault("LS-01b", Server, witness, "sort without a thought to bytes")
