"""What does not match is kept under its own hash."""

from __future__ import annotations

from pathlib import Path

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def check_content(self, name: str, content: str) -> None:
        self.unplaced = content if content != name else ""
        super().check_content(name, content)

    unplaced = ""

    def clean(self, files: list[Path]) -> None:
        if self.unplaced and all(path.exists() for path in files):
            self.commit(self.unplaced, files)
        super().clean(files)


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    stor.post(stor.missing(), data)
    return stor.get(path_of(data)).status


FAULT = Fault("SO-03p", Server, witness, "a content-addressed store, where nothing is wrong", blast=("*",))
