"""GET / shows another text."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client


class Server(Reference):
    def banner(self, request: Request) -> Answer:
        return self.text(200, "Page not found... yet!")


def witness(stor: Client) -> object:
    return stor.get("/").text


FAULT = Fault("SO-08a", Server, witness, "Mojolicious without the route")
