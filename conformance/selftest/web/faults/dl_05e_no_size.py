"""A 416 does not tell the size."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def unsatisfiable(self, size: int) -> Answer:
        return self.text(416, "Range Not Satisfiable")


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=9999999-").get("Content-Range")


FAULT = Fault("DL-05e", Server, witness, "a header that was forgotten", blast=("DL-05*",))
