"""The 200 has a body."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer


class Server(Reference):
    def stored_answer(self, keys: list[str]) -> Answer:
        return self.json(200, {"stored": len(keys)})


def witness(kci: Client) -> object:
    return kci.upload(kci.key("a"), b"x").text


FAULT = Fault("UP-01b", Server, witness, "every REST framework", blast=("DL-08b",))
