"""If-Range is not read: a resumed download joins two versions."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Request, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def if_range(self, request: Request, stored: Stored) -> bool:
        return True


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=2-5", If_Range='"other"').status


FAULT = Fault("DL-05i", Server, witness, "kernelci-storage 0.2.1")
