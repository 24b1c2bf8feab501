"""There is no digest."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Headers
from conformance.stor.client import Client


class Server(Reference):
    def repr_digest(self, data: bytes) -> Headers:
        return []


def witness(stor: Client) -> object:
    return stor.sample().response.get("Repr-Digest")


FAULT = Fault("SO-01d", Server, witness, "Stor 1.5.2")
