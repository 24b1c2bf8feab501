"""A wrong method is 404."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Request, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def wrong_method(self, request: Request, methods: list[str]) -> Answer:
        return self.text(404, "Not Found")


def witness(web: Client) -> object:
    return web.request(*web.wrong_methods[0]).status


FAULT = Fault("ST-02a", Server, witness, "routers that match method and path at once", blast=("ST-02b",))
