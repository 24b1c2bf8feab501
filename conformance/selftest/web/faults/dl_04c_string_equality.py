"""If-None-Match is compared as one string."""

from __future__ import annotations

from conformance.selftest.fault import Fault, with_header
from conformance.selftest.web.server import Request, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def precondition(self, request: Request, stored: Stored) -> int:
        value = request.headers.get("if-none-match")
        if value is not None and value != stored.etag:
            return super().precondition(with_header(request, "if-none-match", '"never"'), stored)
        return super().precondition(request, stored)


def witness(web: Client) -> object:
    return web.get(web.sample().path, If_None_Match="*").status


FAULT = Fault("DL-04c", Server, witness, "kernelci-storage 0.2.1", blast=("DL-04*",))
