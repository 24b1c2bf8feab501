"""A 405 does not say what is allowed."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference, Request


class Server(Reference):
    def wrong_method(self, request: Request, methods: list[str]) -> Answer:
        return self.text(405, "Method Not Allowed")


def witness(kci: Client) -> object:
    return kci.get("/upload").get("Allow")


FAULT = Fault("ST-02b", Server, witness, "http.server's send_error")
