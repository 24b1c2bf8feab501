"""An error shows a path of the host."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference, Refused


class Server(Reference):
    def refusal(self, refused: Refused) -> Answer:
        return self.text(refused.status, f"[Errno 2] {refused.text}: '/srv/storage/objects'", refused.headers)


def witness(kci: Client) -> object:
    return kci.get("/%00").text


FAULT = Fault("RB-11", Server, witness, "str(error) as the answer")
