"""A key outside ASCII is refused."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    def check_characters(self, key: str) -> None:
        super().check_characters(key)
        if not key.isascii():
            raise Refused(400, "Only ASCII")


def witness(kci: Client) -> object:
    return kci.upload(kci.key("\u00fc"), b"x").status


FAULT = Fault("UP-03d", Server, witness, "a list of good characters", blast=("LS-*", "DL-*"))
