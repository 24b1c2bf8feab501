"""Only the first form of HTTP-date is read."""

from __future__ import annotations

from conformance.selftest.fault import Fault, without
from conformance.selftest.web.server import Request, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def precondition(self, request: Request, stored: Stored) -> int:
        value = request.headers.get("if-modified-since", "")
        if (value and not value.endswith("GMT")) or "-" in value:
            return super().precondition(without(request, "if-modified-since"), stored)
        return super().precondition(request, stored)


def witness(web: Client) -> object:
    return web.get(web.sample().path, If_Modified_Since="Fri Jan  1 00:00:00 2049").status


FAULT = Fault("DL-04e", Server, witness, "strptime with one format")
