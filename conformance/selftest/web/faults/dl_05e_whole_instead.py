"""An unsatisfiable range is the whole object, and `wget -c` appends it."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        answer = super().partial(header, stored, headers)
        return Answer(200, stored.data, headers) if answer.status == 416 else answer


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=9999999-").status


FAULT = Fault("DL-05e", Server, witness, "a range that is ignored when in doubt", blast=("DL-05*",))
