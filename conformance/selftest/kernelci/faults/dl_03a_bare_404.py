"""The 404 does not say what was looked for."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer


class Server(Reference):
    def missing(self, key: str) -> Answer:
        return self.text(404, "Not Found")


def witness(kci: Client) -> object:
    return kci.download(kci.key("a")).text


FAULT = Fault("DL-03a", Server, witness, "a default page")
