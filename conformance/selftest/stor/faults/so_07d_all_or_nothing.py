"""With a storage away nothing is read."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Refused, Request
from conformance.stor.client import Client


class Server(Reference):
    def download(self, request: Request) -> Answer:
        if self.away():
            raise Refused(503, "A storage is away")
        return super().download(request)


def witness(stor: Client) -> object:
    path, storage = stor.stored(stor.fresh("a")), stor.storages[0]
    hidden = storage.rename(storage.with_name("hidden"))
    try:
        return stor.get(path).status
    finally:
        hidden.rename(storage)


FAULT = Fault("SO-07d", Server, witness, "a look at all mounts in front of every request", blast=("SO-0*",))
