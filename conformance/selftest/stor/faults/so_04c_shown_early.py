"""The file grows in its place."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client, path_of


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        name = self.post_name(request)
        with self.guard:
            begun: set[str] = vars(self).setdefault("begun", set())
            begun.add(name)
        try:
            return super().upload(request)
        finally:
            begun.discard(name)

    def download(self, request: Request) -> Answer:
        name = self.name(request.path)
        if name in vars(self).get("begun", ()) and not self.stored(name or ""):
            return Answer(200, b"what came so far")
        return super().download(request)


def witness(stor: Client) -> object:
    held = stor.half_sent(stor.fresh("a", 200_000))
    stor.patience.eventually("early", lambda: stor.get(path_of(held.content)).status == 200 or None, "200")
    return 200


FAULT = Fault("SO-04c", Server, witness, 'open(path, "wb") under the final name', blast=("SO-04*",))
