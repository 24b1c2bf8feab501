"""HEAD is a wrong method."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Request, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def answer(self, request: Request, peer: str) -> Answer:
        if request.method == "HEAD":
            return self.wrong_method(request, ["GET"])
        return super().answer(request, peer)


def witness(web: Client) -> object:
    return web.request("HEAD", "/").status


FAULT = Fault(
    "ST-01b",
    Server,
    witness,
    "frameworks that route HEAD only where it is declared",
    blast=(
        "DL-*",
        "DL-08a",
    ),
)
