"""Any content is stored under any name."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def check_content(self, name: str, content: str) -> None:
        return

    def whole(self, name: str, data: bytes) -> bool:
        return True


def witness(stor: Client) -> object:
    return stor.post(stor.missing(), b"x").status


FAULT = Fault("SO-03o", Server, witness, "a store that believes its clients", blast=("*",))
