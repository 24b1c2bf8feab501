"""Only file0 is stored, and the answer is 200."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def is_file(self, name: str) -> bool:
        return name == "file0"


def witness(kci: Client) -> object:
    kci.post(field("path", kci.folder), file("a", b"x"), file("b", b"x", "file1"))
    return kci.download(kci.key("b")).status


FAULT = Fault("UP-05a", Server, witness, "kernelci-storage 0.2.1")
