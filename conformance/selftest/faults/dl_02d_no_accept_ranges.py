"""A download does not say that ranges work."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Headers, Reference, Stored


class Server(Reference):
    def object_headers(self, key: str, stored: Stored) -> Headers:
        return [pair for pair in super().object_headers(key, stored) if pair[0] != "Accept-Ranges"]


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path).get("Accept-Ranges")


FAULT = Fault("DL-02d", Server, witness, "a header that was forgotten")
