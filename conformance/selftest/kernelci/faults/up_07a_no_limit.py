"""Any Content-Length is let in."""

from __future__ import annotations

from conformance.kernelci.client import FORM_TYPE, Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Request


class Server(Reference):
    def check_size(self, request: Request) -> None:
        return


def witness(kci: Client) -> object:
    connection = kci.connection()
    sized = [kci.authorised(), FORM_TYPE, ("Content-Length", str(1 << 50)), ("Expect", "100-continue")]
    connection.send(kci.head("POST", "/v1/file", sized))
    return connection.receive_one_head().status


FAULT = Fault("UP-07a", Server, witness, "a server without limits")
