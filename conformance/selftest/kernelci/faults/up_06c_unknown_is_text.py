"""An unknown extension is text."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def other_type(self, key: str) -> str:
        found = super().other_type(key)
        return "text/plain" if found == "application/octet-stream" else found


def witness(kci: Client) -> object:
    kci.upload(kci.key("a"), b"x")
    return kci.download(kci.key("a")).get("Content-Type")


FAULT = Fault("UP-06c", Server, witness, "a default that pleases browsers")
