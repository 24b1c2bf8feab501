"""A POST beside an upload of the name is 200."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        name = self.post_name(request)
        self.authenticate(request)
        with self.guard:
            begun: set[str] = vars(self).setdefault("begun", set())
            if name in begun:
                return self.found()
            begun.add(name)
        try:
            return super().upload(request)
        finally:
            begun.discard(name)


def witness(stor: Client) -> object:
    data = stor.fresh("a", 200_000)
    held = stor.half_sent(data)
    second = stor.store(data).status
    held.connection.close()
    return second


FAULT = Fault(
    "SO-04h", Server, witness, "a table of what is being written, taken for one of what is", blast=("SO-04*",)
)
