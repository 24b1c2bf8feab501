"""The status is JSON."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client


class Server(Reference):
    def status(self, request: Request) -> Answer:
        return self.json(200, {"status": "OK"})


def witness(stor: Client) -> object:
    return stor.get("/status").text


FAULT = Fault("SO-08b", Server, witness, "a health check of another fashion", blast=("SO-08c",))
