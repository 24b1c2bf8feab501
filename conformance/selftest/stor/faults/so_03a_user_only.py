"""The password is not looked at."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def match(self, given: bytes, right: bytes) -> bool:
        return given.partition(b":")[0] == right.partition(b":")[0]


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    wrong = stor.credentials.partition(":")[0] + ":wrong"
    return stor.request("POST", path_of(data), [stor.authorised(wrong)], data).status


FAULT = Fault("SO-03a", Server, witness, "the name that a proxy hands on, taken for a proof", blast=("SO-03b",))
