"""Another unit is taken for bytes."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        return super().partial(header.replace("items=", "bytes="), stored, headers)


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="items=0-5").status


FAULT = Fault("DL-05f", Server, witness, "a parser that looks behind the =", blast=("DL-05*",))
