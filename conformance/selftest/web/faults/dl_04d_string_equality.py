"""If-Modified-Since is compared as one string."""

from __future__ import annotations

from email.utils import formatdate

from conformance.selftest.fault import Fault, without
from conformance.selftest.web.server import Request, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def precondition(self, request: Request, stored: Stored) -> int:
        value = request.headers.get("if-modified-since")
        if value is not None and value != formatdate(stored.modified, usegmt=True):
            return super().precondition(without(request, "if-modified-since"), stored)
        return super().precondition(request, stored)


def witness(web: Client) -> object:
    return web.get(web.sample().path, If_Modified_Since="Fri, 01 Jan 2049 00:00:00 GMT").status


FAULT = Fault("DL-04d", Server, witness, "kernelci-storage 0.2.1", blast=("DL-04*",))
