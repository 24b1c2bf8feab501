"""The ETag of the upload is not the one of the object."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer


class Server(Reference):
    def stored_answer(self, keys: list[str]) -> Answer:
        return Answer(200, b"", [("ETag", '"upload"')])


def witness(kci: Client) -> object:
    return kci.upload(kci.key("a"), b"x").get("ETag")


FAULT = Fault("UP-01c", Server, witness, "an ETag of the request instead of the object")
