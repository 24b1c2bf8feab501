"""What an upload had written stays when it breaks off."""

from __future__ import annotations

from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def clean(self, files: list[Path]) -> None:
        return


def witness(stor: Client) -> object:
    storage = stor.storages[0]
    stor.post(stor.missing(), b"x")
    return len(list(storage.glob(".*.part")))


FAULT = Fault("SO-04k", Server, witness, "a temporary file without a `finally`")
