"""A 401 does not say what is wanted."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Headers
from conformance.stor.client import Client


class Server(Reference):
    def challenge(self) -> Headers:
        return []


def witness(stor: Client) -> object:
    return stor.request("POST", stor.missing(), [], b"x").get("WWW-Authenticate")


FAULT = Fault("SO-03c", Server, witness, "a 401 by hand", blast=("SO-03d",))
