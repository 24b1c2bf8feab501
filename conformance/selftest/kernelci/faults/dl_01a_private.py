"""A download needs a token."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def download(self, request: Request) -> Answer:
        self.authenticate(request)
        return super().download(request)


def witness(kci: Client) -> object:
    return kci.download(kci.stored(kci.key("a"), b"x")).status


FAULT = Fault("DL-01a", Server, witness, "a token that is asked for everywhere", blast=("*",))
