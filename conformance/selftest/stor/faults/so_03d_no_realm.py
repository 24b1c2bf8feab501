"""The challenge has no realm."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Headers
from conformance.stor.client import Client


class Server(Reference):
    def challenge(self) -> Headers:
        return [("WWW-Authenticate", "Basic")]


def witness(stor: Client) -> object:
    return stor.request("POST", stor.missing(), [], b"x").get("WWW-Authenticate")


FAULT = Fault("SO-03d", Server, witness, "a challenge as Bearer has it")
