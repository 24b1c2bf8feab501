"""HEAD has no Content-Length."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Request, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def framing_headers(self, request: Optional[Request], answer: Answer) -> Headers:
        if request is not None and request.method == "HEAD":
            return []
        return super().framing_headers(request, answer)


def witness(web: Client) -> object:
    return web.request("HEAD", web.sample().path).get("Content-Length")


FAULT = Fault(
    "DL-01e",
    Server,
    witness,
    "chunked answers",
    blast=(
        "DL-05j",
        "CH-02a",
    ),
)
