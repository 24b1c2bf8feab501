"""If-Match is not read."""

from __future__ import annotations

from conformance.selftest.fault import Fault, without
from conformance.selftest.web.server import Request, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def precondition(self, request: Request, stored: Stored) -> int:
        return super().precondition(without(request, "if-match"), stored)


def witness(web: Client) -> object:
    return web.get(web.sample().path, If_Match='"other"').status


FAULT = Fault("DL-04a", Server, witness, "kernelci-storage 0.2.1", blast=("DL-04*",))
