"""A chunked upload is refused."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    def framing(self, headers: dict[str, str]) -> Optional[int]:
        if "transfer-encoding" in headers:
            raise Refused(411, "Length Required")
        return super().framing(headers)


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(kci.head("POST", "/v1/file", [("Transfer-Encoding", "chunked")]) + b"0\r\n\r\n")
    return connection.receive("POST").status


FAULT = Fault("UP-07b", Server, witness, "http.server, which reads no chunks", blast=("RB-*",))
