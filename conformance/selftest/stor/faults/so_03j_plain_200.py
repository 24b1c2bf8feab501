"""What was stored is 200."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer
from conformance.stor.client import Client


class Server(Reference):
    def created(self) -> Answer:
        return self.found()


def witness(stor: Client) -> object:
    return stor.store(stor.fresh("a")).status


FAULT = Fault("SO-03j", Server, witness, "a handler without a status of its own", blast=("*",))
