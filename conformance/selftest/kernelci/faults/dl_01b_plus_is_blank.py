"""A + in the path of a download is a blank."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def decoded(self, path: str) -> bytes:
        return super().decoded(path.replace("+", " "))


def witness(kci: Client) -> object:
    kci.stored(kci.key("a b"), b"x")
    return kci.get(f"/{kci.folder}/a+b").status


FAULT = Fault("DL-01b", Server, witness, "a path that passes through a form library", blast=("UP-03d",))
