"""A malformed Range is 416."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Headers, Reference, Stored


class Server(Reference):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        answer = super().partial(header, stored, headers)
        return self.unsatisfiable(len(stored.data)) if answer.status == 200 and "," not in header else answer


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, Range="bytes=a-b").status


FAULT = Fault("DL-05f", Server, witness, "a parser that raises", blast=("DL-05*",))
