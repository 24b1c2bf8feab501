"""Two uploads of one name both store it."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        name = self.post_name(request)
        self.authenticate(request)
        if self.stored(name):
            return self.found()
        self.check_room(request)
        with self.received(request.body) as received:
            self.check_content(name, received.name)
            self.commit(name, received.files)
        return self.created()


def witness(stor: Client) -> object:
    data = stor.fresh("a", 100_000)
    held = [stor.half_sent(data), stor.half_sent(data)]
    return [one.open().status for one in held]


FAULT = Fault(
    "SO-04g",
    Server,
    witness,
    "a look before the body, and none behind it",
    blast=(
        "SO-04j",
        "SO-04h",
    ),
)
