"""A storage that is away is 500."""

from __future__ import annotations

from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer
from conformance.stor.client import Client


class Server(Reference):
    def unavailable(self, away: list[Path]) -> Answer:
        return self.text(500, f"{away[0]} is not mounted")


def witness(stor: Client) -> object:
    storage = stor.storages[0]
    hidden = storage.rename(storage.with_name("hidden"))
    try:
        return stor.get("/status").text
    finally:
        hidden.rename(storage)


FAULT = Fault("SO-08c", Server, witness, "Stor 1.5.2")
