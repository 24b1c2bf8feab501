"""A copy that is cut short is sent as it is."""

from __future__ import annotations

from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def whole(self, name: str, data: bytes) -> bool:
        return super().whole(name, data) or len(data) in (0, 1000)

    def restore(self, name: str, data: bytes, files: list[Path]) -> None:
        return


def witness(stor: Client) -> object:
    data = stor.fresh("a", 3000)
    path = stor.copies(data)[0]
    path.write_bytes(data[:1000])
    return {len(stor.get(path_of(data)).body) for _ in range(30)}


FAULT = Fault("SO-07b", Server, witness, "Stor 1.5.2", blast=("SO-07*",))
