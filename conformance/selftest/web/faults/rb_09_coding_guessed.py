"""A coding that holds the word chunked is taken for it."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def framing(self, headers: dict[str, str]) -> Optional[int]:
        coding = headers.get("transfer-encoding", "")
        return None if "chunked" in coding and "content-length" not in headers else super().framing(headers)


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(web.head("POST", "/", [("Transfer-Encoding", "xchunked")]) + b"0\r\n\r\n")
    return connection.receive("POST").status


FAULT = Fault("RB-09", Server, witness, "a substring test", blast=("RB-01",))
