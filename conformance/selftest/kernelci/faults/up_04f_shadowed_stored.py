"""An object is stored where no download finds it."""

from __future__ import annotations

from conformance.kernelci.client import Client, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_shadowed(self, key: str) -> None:
        return


def witness(kci: Client) -> object:
    return kci.post(file("metrics", b"x")).status


FAULT = Fault("UP-04f", Server, witness, "a server that knows its routes only when it reads")
