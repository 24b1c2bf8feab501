"""A label has no quotes."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def metrics_text(self) -> str:
        return super().metrics_text().replace('"reference"', "reference")


def witness(web: Client) -> object:
    return web.get("/metrics").text


FAULT = Fault("MT-01a", Server, witness, "metrics by string formatting", blast=("MT-*",))
