"""A file may stand where a folder is."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_way(self, key: str) -> None:
        return


def witness(kci: Client) -> object:
    kci.stored(kci.key("a"), b"x")
    return kci.upload(kci.key("a/b"), b"x").status


FAULT = Fault("UP-04k", Server, witness, "a cloud, which has no folders", blast=("RB-11",))
