"""Only the first storage is read."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Stored
from conformance.stor.client import Client, path_of


class Server(Reference):
    def look_up(self, name: str) -> Optional[Stored]:
        path = self.files(name)[0]
        data = self.read(path)
        return None if data is None else Stored(data, "", self.etag(name), int(path.stat().st_mtime))


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    stor.copies(data)[0].unlink()
    return stor.get(path_of(data)).status


FAULT = Fault("SO-07a", Server, witness, "the twin as a backup that nobody asks", blast=("SO-0*",))
