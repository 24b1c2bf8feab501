"""A malformed Range is 416."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        answer = super().partial(header, stored, headers)
        return self.unsatisfiable(len(stored.data)) if answer.status == 200 and "," not in header else answer


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=a-b").status


FAULT = Fault("DL-05f", Server, witness, "a parser that raises", blast=("DL-05*",))
