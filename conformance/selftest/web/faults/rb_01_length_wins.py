"""With both framings the length is taken."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def framing(self, headers: dict[str, str]) -> Optional[int]:
        if "content-length" in headers:
            return self.content_length(headers["content-length"])
        return super().framing(headers)


def witness(web: Client) -> object:
    connection = web.connection()
    both = [("Content-Length", "5"), ("Transfer-Encoding", "chunked")]
    connection.send(web.head("POST", "/", both) + b"0\r\n\r\n")
    return connection.receive("POST").status


FAULT = Fault(
    "RB-01",
    Server,
    witness,
    "http.server, which knows no chunks",
    blast=(
        "RB-*",
        "UP-07b",
    ),
)
