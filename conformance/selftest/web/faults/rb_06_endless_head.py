"""A head of any length is collected."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def head_limit(self) -> int:
        return 1 << 30


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(b"GET /" + b"a" * 100_000)
    return connection.answered_within(0.5)


FAULT = Fault("RB-06", Server, witness, "readline without a limit")
