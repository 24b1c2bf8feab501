"""The body of a refused request is read as the next request."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference, Request


class Server(Reference):
    def settle_body(self, request: Optional[Request], answer: Answer) -> None:
        return


def witness(kci: Client) -> object:
    connection = kci.connection()
    hidden = kci.head("GET", "/robots.txt")
    connection.send(kci.head("POST", "/v1/file", [("Content-Length", str(len(hidden)))]) + hidden)
    connection.receive("POST")
    return connection.receive().status if connection.answered_within(0.5) else 0


FAULT = Fault("RB-08", Server, witness, "http.server", blast=("*",))
