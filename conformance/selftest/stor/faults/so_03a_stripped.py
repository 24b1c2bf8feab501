"""Blanks and line ends around the credentials are cut off."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def match(self, given: bytes, right: bytes) -> bool:
        return super().match(given.strip(), right)


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    return stor.request("POST", path_of(data), [stor.authorised(stor.credentials + " ")], data).status


FAULT = Fault("SO-03a", Server, witness, "strip() on what was read from a file, and on what was not")
