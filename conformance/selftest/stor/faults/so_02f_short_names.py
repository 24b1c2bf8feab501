"""Files are found by the first half of their name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def file(self, folder: Path, name: str) -> Path:
        return folder / name[:2].upper() / f"{name[:32]}.dat"

    def whole(self, name: str, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest()[:32] == name[:32]


def witness(stor: Client) -> object:
    path = stor.stored(stor.fresh("a"))
    return stor.get(path[:33] + "0" * 32).status


FAULT = Fault("SO-02f", Server, witness, "a file name that had to be shorter", blast=("*",))
