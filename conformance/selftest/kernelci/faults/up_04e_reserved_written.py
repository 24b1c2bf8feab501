"""An upload can write into the server's own folder."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_reserved(self, segments: list[str]) -> None:
        return


def witness(kci: Client) -> object:
    return kci.post(field("path", ".metadata"), file("b", b"x")).status


FAULT = Fault("UP-04e", Server, witness, "sidecars in the tree of the objects")
