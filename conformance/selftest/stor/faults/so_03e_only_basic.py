"""The scheme must be written as `Basic`."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def scheme_known(self, scheme: str) -> bool:
        return scheme == "Basic"


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    coded = stor.authorised()[1].partition(" ")[2]
    return stor.request("POST", path_of(data), [("Authorization", f"basic {coded}")], data).status


FAULT = Fault("SO-03e", Server, witness, 'startswith("Basic ")')
