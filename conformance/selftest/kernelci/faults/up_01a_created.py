"""The answer is 201, which clients that test for 200 take for a failure."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer


class Server(Reference):
    def stored_answer(self, keys: list[str]) -> Answer:
        answer = super().stored_answer(keys)
        answer.status = 201
        return answer


def witness(kci: Client) -> object:
    return kci.upload(kci.key("a"), b"x").status


FAULT = Fault("UP-01a", Server, witness, "every REST framework", blast=("*",))
