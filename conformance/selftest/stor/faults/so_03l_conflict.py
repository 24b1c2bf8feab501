"""What is stored is 409."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer
from conformance.stor.client import Client


class Server(Reference):
    def found(self) -> Answer:
        return self.json(409, self.places())


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    stor.store(data)
    return stor.store(data).status


FAULT = Fault("SO-03l", Server, witness, "a store whose names are taken", blast=("*",))
