"""A blank before the colon is read over."""

from __future__ import annotations

import re

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def fields(self, lines: list[bytes]) -> dict[str, str]:
        return super().fields([re.sub(rb"^([^:]*?)[ \t]+:", rb"\1:", line) for line in lines])


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(web.head("GET", "/", [("X-A ", "1")]))
    return connection.receive().status


FAULT = Fault("RB-03", Server, witness, "strip() on a field name", blast=("*",))
