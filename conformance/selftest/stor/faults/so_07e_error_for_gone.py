"""A file that is gone from all storages is an error of the server."""

from __future__ import annotations

from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Refused
from conformance.stor.client import Client, path_of


class Server(Reference):
    def commit(self, name: str, written: list[Path]) -> None:
        super().commit(name, written)
        vars(self).setdefault("known", set()).add(name)

    def missing(self, name: str) -> Refused:
        gone = name in vars(self).get("known", set())
        return Refused(500, "Internal Server Error") if gone else super().missing(name)


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    for path in stor.copies(data):
        path.unlink()
    return stor.get(path_of(data)).status


FAULT = Fault("SO-07e", Server, witness, "open() behind a look into a cache")
