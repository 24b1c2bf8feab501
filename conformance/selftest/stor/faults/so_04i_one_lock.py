"""One upload at a time."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client, path_of


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        self.post_name(request)
        self.authenticate(request)
        with self.guard:
            return super().upload(request)


def witness(stor: Client) -> object:
    stor.half_sent(stor.fresh("a", 200_000))
    for number in range(20):
        probe = stor.connection()
        data = stor.fresh(f"other {number}")
        probe.send(stor.post_head(path_of(data), [("Content-Length", str(len(data)))]) + data)
        if not probe.answered_within(3):
            return "waits"
    return "answers"


FAULT = Fault("SO-04i", Server, witness, "a lock around a handler", blast=("*",))
