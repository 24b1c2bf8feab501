"""HEAD with a Range is 206."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Request, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def served(self, request: Request, key: str, stored: Stored) -> Answer:
        return super().served(request._replace(method="GET"), key, stored)


def witness(web: Client) -> object:
    return web.request("HEAD", web.sample().path, [("Range", "bytes=2-5")]).status


FAULT = Fault("DL-05j", Server, witness, "one handler for both methods")
