"""Only the first storage is written before the answer."""

from __future__ import annotations

from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def commit(self, name: str, written: list[Path]) -> None:
        self.place(written[0], self.files(name)[0])
        self.clean(written)

    def restore(self, name: str, data: bytes, files: list[Path]) -> None:
        return


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    stor.stored(data)
    return [path.exists() for path in stor.files_of(data)]


FAULT = Fault("SO-05a", Server, witness, "replication in the background", blast=("SO-0*",))
