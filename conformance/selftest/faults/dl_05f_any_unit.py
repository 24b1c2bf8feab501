"""Another unit is taken for bytes."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Headers, Reference, Stored


class Server(Reference):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        return super().partial(header.replace("items=", "bytes="), stored, headers)


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, Range="items=0-5").status


FAULT = Fault("DL-05f", Server, witness, "a parser that looks behind the =", blast=("DL-05*",))
