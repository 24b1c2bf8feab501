"""The status is a constant."""

from __future__ import annotations

from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def away(self) -> list[Path]:
        return []


def witness(stor: Client) -> object:
    storage = stor.storages[0]
    hidden = storage.rename(storage.with_name("hidden"))
    try:
        return stor.get("/status").text
    finally:
        hidden.rename(storage)


FAULT = Fault("SO-08c", Server, witness, "a health check that looks at nothing", blast=("SO-0*",))
