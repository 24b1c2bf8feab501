"""Sidecars are listed."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def listed_keys(self) -> list[str]:
        return [name for key in super().listed_keys() for name in (key, f".metadata/{hash(key):x}.headers")]


def witness(kci: Client) -> object:
    kci.stored(kci.key("a"), b"x")
    return any(line.startswith(".metadata/") for line in kci.listed())


FAULT = Fault("LS-01e", Server, witness, "a walk over the whole tree", blast=("LS-*",))
