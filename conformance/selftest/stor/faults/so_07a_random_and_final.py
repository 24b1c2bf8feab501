"""A storage is chosen at random, and what it does not have is missing."""

from __future__ import annotations

import random
from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def in_order(self, files: list[Path]) -> list[Path]:
        return files[:1] if all(path.exists() for path in files) else random.sample(files, 1)

    def restore(self, name: str, data: bytes, files: list[Path]) -> None:
        return


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    stor.copies(data)[0].unlink()
    return {stor.get(path_of(data)).status for _ in range(30)}


FAULT = Fault("SO-07a", Server, witness, "a choice without a second one", blast=("SO-0*",))
