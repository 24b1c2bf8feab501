"""Where a file was is remembered when it is there no more."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Stored
from conformance.stor.client import Client, path_of


class Server(Reference):
    def look_up(self, name: str) -> Optional[Stored]:
        seen: dict[str, Stored] = vars(self).setdefault("seen", {})
        found = super().look_up(name) or seen.get(name)
        if found is not None:
            seen[name] = found
        return found


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    files = stor.copies(data)
    stor.get(path_of(data))
    for path in files:
        path.unlink()
    return stor.get(path_of(data)).status


FAULT = Fault("SO-07e", Server, witness, "a cache of locations that is not checked", blast=("SO-0*",))
