"""A wrong method is 404."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference, Request


class Server(Reference):
    def wrong_method(self, request: Request, methods: list[str]) -> Answer:
        return self.text(404, "Not Found")


def witness(kci: Client) -> object:
    return kci.get("/upload").status


FAULT = Fault("ST-02a", Server, witness, "routers that match method and path at once", blast=("ST-02b",))
