"""The reason is a page of text."""

from __future__ import annotations

from conformance.kernelci.client import Client, field
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Refused


class Server(Reference):
    def refusal(self, refused: Refused) -> Answer:
        extra = "\nPlease see the manual.\nHave a nice day." if refused.status == 400 else ""
        return self.text(refused.status, refused.text + extra, refused.headers)


def witness(kci: Client) -> object:
    return kci.post(field("path", kci.folder)).text.count("\n")


FAULT = Fault("UP-04l", Server, witness, "a framework's page for errors")
