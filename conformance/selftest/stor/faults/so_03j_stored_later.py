"""The answer comes before the object is there."""

from __future__ import annotations

import time
from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client, path_of


class Server(Reference):
    def commit(self, name: str, written: list[Path]) -> None:
        super().commit(name, written)
        vars(self).setdefault("shown", {})[name] = time.monotonic() + 0.3

    def download(self, request: Request) -> Answer:
        shown: dict[str, float] = vars(self).get("shown", {})
        if time.monotonic() < shown.get(self.name(request.path) or "", 0):
            raise self.missing(request.path[1:])
        return super().download(request)


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    stor.store(data)
    return stor.get(path_of(data)).status


FAULT = Fault("SO-03j", Server, witness, "a queue behind the handler", blast=("*",))
