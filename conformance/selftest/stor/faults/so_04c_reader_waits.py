"""A download waits for the upload."""

from __future__ import annotations

import threading

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client, path_of


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        name = self.post_name(request)
        changed, begun = self.watched()
        with changed:
            begun.append(name)
        try:
            return super().upload(request)
        finally:
            with changed:
                begun.remove(name)
                changed.notify_all()

    def watched(self) -> tuple[threading.Condition, list[str]]:
        with self.guard:
            own = vars(self)
            return own.setdefault("changed", threading.Condition()), own.setdefault("begun", [])

    def download(self, request: Request) -> Answer:
        changed, begun = self.watched()
        with changed:
            changed.wait_for(lambda: self.name(request.path) not in begun, 30)
        return super().download(request)


def witness(stor: Client) -> object:
    held = stor.half_sent(stor.fresh("a", 200_000))
    for _ in range(50):
        probe = stor.connection()
        probe.send(stor.head("GET", path_of(held.content)))
        if not probe.answered_within(1):
            return "waits"
    return "answers"


FAULT = Fault("SO-04c", Server, witness, "the KernelCI protocol, DL-6", blast=("SO-04*",))
