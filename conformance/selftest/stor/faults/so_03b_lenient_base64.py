"""What is no base64 is read over."""

from __future__ import annotations

import base64

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client, path_of


class Server(Reference):
    def decoded_pair(self, coded: str) -> bytes:
        return base64.b64decode(coded.split("=", maxsplit=1)[0] + "==")


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    twice = stor.authorised()[1] + " " + stor.authorised()[1].partition(" ")[2]
    return stor.request("POST", path_of(data), [("Authorization", twice)], data).status


FAULT = Fault("SO-03b", Server, witness, "b64decode, which is lenient unless it is told otherwise")
