"""A 405 does not say what is allowed."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Request, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def wrong_method(self, request: Request, methods: list[str]) -> Answer:
        return self.text(405, "Method Not Allowed")


def witness(web: Client) -> object:
    return web.request(*web.wrong_methods[0]).get("Allow")


FAULT = Fault("ST-02b", Server, witness, "http.server's send_error")
