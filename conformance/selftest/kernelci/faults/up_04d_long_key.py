"""A key of any length is accepted."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_key_length(self, key: str) -> None:
        return


def witness(kci: Client) -> object:
    return kci.upload(kci.key("/".join(["d" * 200] * 8)), b"x").status


FAULT = Fault("UP-04d", Server, witness, "a file system, which has other limits")
