"""Folders and files are in lower case."""

from __future__ import annotations

from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def file(self, folder: Path, name: str) -> Path:
        return folder / name[:2] / name[2:4] / name[4:6] / f"{name}.dat"


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    stor.stored(data)
    return stor.files_of(data)[0].exists()


FAULT = Fault("SO-05a", Server, witness, "sha256sum, and the keys of S3", blast=("SO-0*",))
