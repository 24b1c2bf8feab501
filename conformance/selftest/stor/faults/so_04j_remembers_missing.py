"""What was missing once stays missing for a while."""

from __future__ import annotations

import time

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Refused, Request
from conformance.stor.client import Client, path_of


class Server(Reference):
    def download(self, request: Request) -> Answer:
        missed: dict[str, float] = vars(self).setdefault("missed", {})
        if time.monotonic() < missed.get(request.path, 0):
            raise self.missing(request.path[1:])
        try:
            return super().download(request)
        except Refused:
            missed[request.path] = time.monotonic() + 5
            raise


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    stor.get(path_of(data))
    stor.store(data)
    return stor.get(path_of(data)).status


FAULT = Fault("SO-04j", Server, witness, "a cache of locations that also keeps what has none", blast=("*",))
