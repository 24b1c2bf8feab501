"""With both framings the chunked one is taken, and what follows is the next request."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def framing(self, headers: dict[str, str]) -> Optional[int]:
        if "transfer-encoding" in headers:
            headers = {name: value for name, value in headers.items() if name != "content-length"}
        return super().framing(headers)


def witness(web: Client) -> object:
    connection = web.connection()
    both = [("Content-Length", "5"), ("Transfer-Encoding", "chunked")]
    connection.send(web.head("POST", "/", both) + b"0\r\n\r\n")
    return connection.receive("POST").status


FAULT = Fault("RB-01", Server, witness, "RFC 7230's tolerance")
