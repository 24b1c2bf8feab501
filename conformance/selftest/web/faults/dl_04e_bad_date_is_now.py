"""What is no date counts as the present."""

from __future__ import annotations

from conformance.core import oracle
from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Request, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def precondition(self, request: Request, stored: Stored) -> int:
        value = request.headers.get("if-modified-since")
        if value is not None and oracle.http_date(value) is None and "if-none-match" not in request.headers:
            return 304
        return super().precondition(request, stored)


def witness(web: Client) -> object:
    return web.get(web.sample().path, If_Modified_Since="yesterday").status


FAULT = Fault("DL-04e", Server, witness, "a parser with a default")
