"""Nothing is said to caches."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Headers
from conformance.stor.client import Client


class Server(Reference):
    def cache_control(self) -> Headers:
        return []


def witness(stor: Client) -> object:
    return stor.sample().response.get("Cache-Control")


FAULT = Fault("SO-01c", Server, witness, "Stor 1.5.2")
