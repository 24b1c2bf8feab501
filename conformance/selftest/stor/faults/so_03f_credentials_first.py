"""The credentials are checked before the name."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        self.authenticate(request)
        return super().upload(request)


def witness(stor: Client) -> object:
    return stor.request("POST", "/no-sha256", [], b"x").status


FAULT = Fault("SO-03f", Server, witness, "a guard in front of every route", blast=("SO-03i",))
