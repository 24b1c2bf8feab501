"""A method nobody knows is 405."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Request, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def unknown_method(self, request: Request) -> Answer:
        return self.wrong_method(request, ["GET"])


def witness(web: Client) -> object:
    return web.request("BREW", "/").status


FAULT = Fault("ST-02c", Server, witness, "kernelci-storage 0.2.1")
