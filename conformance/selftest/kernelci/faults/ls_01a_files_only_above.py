"""Keys in folders of folders are not listed."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def listed_keys(self) -> list[str]:
        return [key for key in super().listed_keys() if key.count("/") < 3]


def witness(kci: Client) -> object:
    kci.stored(kci.key("x/y/a"), b"x")
    return kci.key("x/y/a") in kci.listed()


FAULT = Fault("LS-01a", Server, witness, "a listing that is not recursive", blast=("LS-*",))
