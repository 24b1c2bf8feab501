"""The body of a refused request is read as the next request."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Request, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def settle_body(self, request: Optional[Request], answer: Answer) -> None:
        return


def witness(web: Client) -> object:
    connection = web.connection()
    hidden = web.head("GET", "/")
    connection.send(web.head("POST", "/", [("Content-Length", str(len(hidden)))]) + hidden)
    connection.receive("POST")
    return connection.receive().status if connection.answered_within(0.5) else 0


FAULT = Fault("RB-08", Server, witness, "http.server", blast=("*",))
