"""One storage of the pair is enough."""

from __future__ import annotations

from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Body
from conformance.stor.client import Client


class Server(Reference):
    def written(self, body: Body, files: list[Path]) -> str:
        return super().written(body, [path for path in files if path.parent.is_dir()])

    def commit(self, name: str, written: list[Path]) -> None:
        for beside, path in zip(written, self.files(name)):
            if beside.exists():
                self.place(beside, path)


def witness(stor: Client) -> object:
    data, storage = stor.fresh("a"), stor.storages[0]
    hidden = storage.rename(storage.with_name("hidden"))
    try:
        return stor.store(data).status
    finally:
        hidden.rename(storage)


FAULT = Fault("SO-04l", Server, witness, "a write that is repeated later, perhaps", blast=("SO-0*",))
