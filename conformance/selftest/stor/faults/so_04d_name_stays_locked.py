"""A name whose upload broke off cannot be stored any more."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Refused, Request
from conformance.stor.client import Client


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        name = self.post_name(request)
        locked: set[str] = vars(self).setdefault("locked", set())
        if name in locked:
            raise Refused(409, "An upload of it is under way")
        locked.add(name)
        answer = super().upload(request)
        locked.discard(name)
        return answer


def witness(stor: Client) -> object:
    held = stor.half_sent(stor.fresh("a", 200_000))
    held.connection.finish_sending()
    held.connection.receive("POST")
    return stor.store(held.content).status


FAULT = Fault("SO-04d", Server, witness, "a lock file without a `finally`", blast=("*",))
