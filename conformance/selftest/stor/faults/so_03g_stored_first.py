"""What is stored is 200 for everybody."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        return self.found() if self.stored(self.post_name(request)) else super().upload(request)


def witness(stor: Client) -> object:
    return stor.request("POST", stor.stored(stor.fresh("a")), [], b"x").status


FAULT = Fault("SO-03g", Server, witness, "a look at the storages in front of the costly check")
