"""The browser gets the object at once."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Request


class Server(Reference):
    def challenged(self, request: Request) -> bool:
        return False


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, User_Agent="challenged-browser").get("Content-Type")


FAULT = Fault("GA-04a", Server, witness, "a feature that is configured and not wired", blast=("GA-04*",))
