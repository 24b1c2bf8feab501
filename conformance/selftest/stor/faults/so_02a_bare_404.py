"""A 404 does not say what was looked for."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Refused
from conformance.stor.client import Client


class Server(Reference):
    def missing(self, name: str) -> Refused:
        return Refused(404, "Not Found")


def witness(stor: Client) -> object:
    return stor.get(stor.missing()).text


FAULT = Fault("SO-02a", Server, witness, "a default page")
