"""Each spelling is an object of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def file(self, folder: Path, name: str) -> Path:
        return folder / name[:2] / name[2:4] / name[4:6] / f"{name}.dat"

    def name(self, path: str) -> Optional[str]:
        return path[1:] if re.fullmatch("/[0-9A-Fa-f]{64}", path) else None

    def whole(self, name: str, data: bytes) -> bool:
        return super().whole(name.lower(), data)

    def check_content(self, name: str, content: str) -> None:
        super().check_content(name.lower(), content)


def witness(stor: Client) -> object:
    return stor.get(stor.sample().path.upper()).status


FAULT = Fault("SO-02e", Server, witness, "a case-sensitive file system under the route", blast=("*",))
