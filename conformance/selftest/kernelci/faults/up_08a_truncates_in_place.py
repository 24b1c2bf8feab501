"""The old object is emptied when the upload begins."""

from __future__ import annotations

from dataclasses import replace

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def begin(self, key: str) -> None:
        with self.guard:
            old = self.objects.get(key)
            if old is not None:
                self.objects[key] = replace(old, data=b"")


def witness(kci: Client) -> object:
    key = kci.stored(kci.key("a"), b"old")
    held = kci.held(key, "x")
    held.connection.finish_sending()
    held.connection.receive("POST")
    return kci.download(key).body


FAULT = Fault(
    "UP-08a",
    Server,
    witness,
    "kernelci-storage 0.2.1",
    blast=(
        "UP-08*",
        "DL-06d",
        "CH-02a",
    ),
)
