"""A blank before the colon is read over."""

from __future__ import annotations

import re

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference


class Server(Reference):
    def fields(self, lines: list[bytes]) -> dict[str, str]:
        return super().fields([re.sub(rb"^([^:]*?)[ \t]+:", rb"\1:", line) for line in lines])


def witness(kci: Client) -> object:
    connection = kci.connection()
    connection.send(kci.head("GET", "/", [("X-A ", "1")]))
    return connection.receive().status


FAULT = Fault("RB-03", Server, witness, "strip() on a field name", blast=("*",))
