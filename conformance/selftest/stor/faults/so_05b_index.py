"""Only what this server stored is served."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Stored
from conformance.stor.client import Client, path_of


class Server(Reference):
    def commit(self, name: str, written: list[Path]) -> None:
        super().commit(name, written)
        self.index().add(name)

    def index(self) -> set[str]:
        found: set[str] = vars(self).setdefault("known", set())
        return found

    def look_up(self, name: str) -> Optional[Stored]:
        return super().look_up(name) if name in self.index() else None


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    for path in stor.files_of(data):
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return stor.get(path_of(data)).status


FAULT = Fault("SO-05b", Server, witness, "a database of names", blast=("SO-0*",))
