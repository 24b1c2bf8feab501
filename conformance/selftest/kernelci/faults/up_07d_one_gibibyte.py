"""More than 1 GiB is refused."""

from __future__ import annotations

from conformance.kernelci.client import FORM_TYPE, Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused, Request


class Server(Reference):
    def check_size(self, request: Request) -> None:
        if int(request.headers.get("content-length", "0")) > 1 << 30:
            raise Refused(413, "Too large")


def witness(kci: Client) -> object:
    connection = kci.connection()
    sized = [kci.authorised(), FORM_TYPE, ("Content-Length", str(2 << 30)), ("Expect", "100-continue")]
    connection.send(kci.head("POST", "/v1/file", sized))
    return connection.receive_one_head().status


FAULT = Fault("UP-07d", Server, witness, "a proxy's default, or a signed 32-bit number")
