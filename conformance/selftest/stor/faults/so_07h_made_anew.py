"""A storage that is away is made anew."""

from __future__ import annotations

from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def restore(self, name: str, data: bytes, files: list[Path]) -> None:
        for folder in self.settings.storages:
            folder.mkdir(exist_ok=True)
        super().restore(name, data, files)


def witness(stor: Client) -> object:
    path, storage = stor.stored(stor.fresh("a")), stor.storages[0]
    hidden = storage.rename(storage.with_name("hidden"))
    stor.get(path)
    return storage.exists(), hidden.exists()


FAULT = Fault("SO-07h", Server, witness, "mkdir(parents=True)", blast=("SO-0*",))
