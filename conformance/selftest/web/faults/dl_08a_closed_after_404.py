"""The connection is closed after a refusal."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Request, WebServer, Wire
from conformance.web.client import Client


class Server(WebServer):
    def send(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        answer.close = answer.close or answer.status >= 400
        super().send(wire, request, answer)


def witness(web: Client) -> object:
    return web.get(web.missing()).closes


FAULT = Fault("DL-08a", Server, witness, "http.server's send_error", blast=("DL-08b",))
