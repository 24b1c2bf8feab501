"""Every answer says Connection: close."""

from __future__ import annotations

from conformance.selftest.fault import Benign
from conformance.selftest.web.server import Request, WebServer


class Server(WebServer):
    def keeps(self, request: Request) -> bool:
        return False


BENIGN = Benign(
    Server, "RFC 9112 9.6: a server may close", untestable=("connection.keep-alive", "connection.pipelining")
)
