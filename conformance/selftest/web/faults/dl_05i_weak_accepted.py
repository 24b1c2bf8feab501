"""A weak tag counts in If-Range."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Request, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def if_range(self, request: Request, stored: Stored) -> bool:
        value = request.headers.get("if-range")
        return value is None or value.replace("W/", "") == stored.etag


def witness(web: Client) -> object:
    sample = web.sample()
    return web.get(sample.path, Range="bytes=2-5", If_Range=f"W/{sample.etag}").status


FAULT = Fault("DL-05i", Server, witness, "one comparison for all")
