"""The content is checked before the storages are asked."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        name = self.post_name(request)
        self.authenticate(request)
        with self.received(request.body) as received:
            self.check_content(name, received.name)
            with self.guard:
                if self.stored(name):
                    return self.found()
                self.commit(name, received.files)
        return self.created()


def witness(stor: Client) -> object:
    return stor.post(stor.stored(stor.fresh("a")), b"x").status


FAULT = Fault(
    "SO-03h",
    Server,
    witness,
    "the order in which the bytes come",
    blast=(
        "SO-03m",
        "SO-03t",
        "RB-08",
    ),
)
