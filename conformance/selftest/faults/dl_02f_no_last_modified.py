"""A download has no Last-Modified."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Headers, Reference, Stored


class Server(Reference):
    def object_headers(self, key: str, stored: Stored) -> Headers:
        return [pair for pair in super().object_headers(key, stored) if pair[0] != "Last-Modified"]


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path).get("Last-Modified")


FAULT = Fault("DL-02f", Server, witness, "kernelci-storage 0.2.1, local driver", blast=("DL-*",))
