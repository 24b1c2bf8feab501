"""100 Continue is sent before the token was looked at."""

from __future__ import annotations

from conformance.kernelci.client import FORM_TYPE, Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Request, Wire


class Server(Reference):
    def read_request(self, wire: Wire) -> Request:
        request = super().read_request(wire)
        if request.body.expected:
            request.body._ask()
        return request


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(kci.head("POST", "/v1/file", [FORM_TYPE, ("Content-Length", "9"), ("Expect", "100-continue")]))
    return connection.receive_one_head().status


FAULT = Fault("UP-07c", Server, witness, "http.server")
