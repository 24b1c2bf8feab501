"""An empty object is stored and not found."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def read(self, path: Path) -> Optional[bytes]:
        return super().read(path) or None


def witness(stor: Client) -> object:
    stor.post(path_of(b""), b"")
    return stor.get(path_of(b"")).status


FAULT = Fault(
    "SO-03q",
    Server,
    witness,
    "`if not data`",
    blast=(
        "DL-05k",
        "SO-07*",
    ),
)
