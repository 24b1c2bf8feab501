"""A name that was once sent wrong bytes is refused for good."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def check_content(self, name: str, content: str) -> None:
        burnt: set[str] = vars(self).setdefault("burnt", set())
        if content != name:
            burnt.add(name)
        super().check_content(name, "burnt" if name in burnt else content)


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    stor.post(path_of(data), b"x")
    return stor.store(data).status


FAULT = Fault("SO-03p", Server, witness, "a verdict that is remembered", blast=("SO-04*",))
