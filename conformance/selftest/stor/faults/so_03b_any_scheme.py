"""The scheme is not looked at."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def scheme_known(self, scheme: str) -> bool:
        return True


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    coded = stor.authorised()[1].partition(" ")[2]
    return stor.request("POST", path_of(data), [("Authorization", f"Bearer {coded}")], data).status


FAULT = Fault("SO-03b", Server, witness, "split(), of which the last word is used")
