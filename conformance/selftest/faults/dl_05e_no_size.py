"""A 416 does not tell the size."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference


class Server(Reference):
    def unsatisfiable(self, size: int) -> Answer:
        return self.text(416, "Range Not Satisfiable")


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, Range="bytes=9999999-").get("Content-Range")


FAULT = Fault("DL-05e", Server, witness, "a header that was forgotten", blast=("DL-05*",))
