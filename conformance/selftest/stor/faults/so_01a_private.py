"""A download needs credentials."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client


class Server(Reference):
    def download(self, request: Request) -> Answer:
        self.authenticate(request)
        return super().download(request)


def witness(stor: Client) -> object:
    return stor.get(stor.sample().path).status


FAULT = Fault("SO-01a", Server, witness, "a proxy that guards every method", blast=("*",))
