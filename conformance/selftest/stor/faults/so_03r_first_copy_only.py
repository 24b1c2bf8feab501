"""The 200 names the first copy it finds."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer
from conformance.stor.client import Client


class Server(Reference):
    def found(self) -> Answer:
        return self.json(200, [str(self.settings.storages[0])])


def witness(stor: Client) -> object:
    return stor.post(stor.stored(stor.fresh("a")), b"").text


FAULT = Fault("SO-03r", Server, witness, "a search that ends at the first hit")
