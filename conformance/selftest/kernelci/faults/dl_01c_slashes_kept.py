"""Repeated slashes in the path of a download are not collapsed."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def collapsed(self, text: str) -> str:
        return text[1:]


def witness(kci: Client) -> object:
    kci.stored(kci.key("a"), b"x")
    return kci.get(f"/{kci.folder}//a").status


FAULT = Fault("DL-01c", Server, witness, "keys that are compared as they come")
