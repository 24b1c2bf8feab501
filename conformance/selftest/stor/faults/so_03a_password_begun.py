"""A password that begins right is right."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def match(self, given: bytes, right: bytes) -> bool:
        return len(given) > 8 and right.startswith(given)


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    return stor.request("POST", path_of(data), [stor.authorised(stor.credentials[:-1])], data).status


FAULT = Fault("SO-03a", Server, witness, "strncmp with the length of what came")
