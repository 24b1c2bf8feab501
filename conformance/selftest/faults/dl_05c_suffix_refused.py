"""A suffix range is 416."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Headers, Reference, Stored


class Server(Reference):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        if header.startswith("bytes=-"):
            return self.unsatisfiable(len(stored.data))
        return super().partial(header, stored, headers)


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, Range="bytes=-2").status


FAULT = Fault("DL-05c", Server, witness, "kernelci-storage 0.2.1", blast=("DL-05*",))
