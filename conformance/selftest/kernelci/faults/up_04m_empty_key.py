"""An object without a name is stored."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_empty(self, key: str) -> None:
        return

    def check_shadowed(self, key: str) -> None:
        if key:
            super().check_shadowed(key)


def witness(kci: Client) -> object:
    return kci.post(field("path", ""), file("/", b"x")).status


FAULT = Fault("UP-04m", Server, witness, "a key that nobody looks at", blast=("*",))
