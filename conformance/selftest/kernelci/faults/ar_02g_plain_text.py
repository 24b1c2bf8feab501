"""A refusal is plain text."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Refused


class Server(Reference):
    def archive_refusal(self, refused: Refused) -> Answer:
        return self.refusal(refused)


def witness(kci: Client) -> object:
    return kci.post(field("path", ""), file("a.zip", b"x", "archive"), route="/v1/archive").get("Content-Type")


FAULT = Fault("AR-02g", Server, witness, "the error handler of the other routes", blast=("AR-02h",))
