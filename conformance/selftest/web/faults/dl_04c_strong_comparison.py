"""A weak tag in If-None-Match never matches."""

from __future__ import annotations

from conformance.selftest.fault import Fault, with_header
from conformance.selftest.web.server import Request, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def precondition(self, request: Request, stored: Stored) -> int:
        value = request.headers.get("if-none-match", "").replace(f"W/{stored.etag}", '"weak"')
        return (
            super().precondition(with_header(request, "if-none-match", value), stored)
            if value
            else super().precondition(request, stored)
        )


def witness(web: Client) -> object:
    sample = web.sample()
    return web.get(sample.path, If_None_Match=f"W/{sample.etag}").status


FAULT = Fault("DL-04c", Server, witness, "one comparison for both headers", blast=("DL-04*",))
