"""A copy that is missing stays missing."""

from __future__ import annotations

from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def restore(self, name: str, data: bytes, files: list[Path]) -> None:
        return


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    path = stor.copies(data)[0]
    path.unlink()
    stor.get(path_of(data))
    return path.exists()


FAULT = Fault("SO-07f", Server, witness, "Stor 1.5.2, which leaves it to the operator")
