"""The browser shows the object."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def disposition(self, name: str) -> str:
        return super().disposition(name).replace("attachment", "inline")


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path).get("Content-Disposition")


FAULT = Fault("DL-02a", Server, witness, "a server for web pages", blast=("DL-02*",))
