"""201 is sent for bytes that are only in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Stored
from conformance.stor.client import Client, path_of


class Server(Reference):
    def commit(self, name: str, written: list[Path]) -> None:
        self.memory()[name] = written[0].read_bytes()
        self.clean(written)

    def memory(self) -> dict[str, bytes]:
        found: dict[str, bytes] = vars(self).setdefault("kept", {})
        return found

    def look_up(self, name: str) -> Optional[Stored]:
        data = self.memory().get(name)
        return super().look_up(name) if data is None else Stored(data, "", self.etag(name), 0)


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    stor.stored(data)
    stor.restart()
    return stor.get(path_of(data)).status


FAULT = Fault(
    "SO-04f",
    Server,
    witness,
    "a write-back cache",
    blast=(
        "SO-05*",
        "SO-07*",
    ),
    restarts=True,
)
