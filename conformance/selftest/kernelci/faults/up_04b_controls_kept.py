"""Control characters are ordinary."""

from __future__ import annotations

from conformance.kernelci.client import Client, Part, field
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_characters(self, key: str) -> None:
        return


def witness(kci: Client) -> object:
    return kci.post(field("path", kci.folder), Part("file0", b"x", b"a\x01b")).status


FAULT = Fault("UP-04b", Server, witness, "keys that go to a cloud as they are", blast=("RB-10",))
