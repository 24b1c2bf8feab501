"""If-None-Match is judged before If-Match."""

from __future__ import annotations

from conformance.selftest.fault import Fault, without
from conformance.selftest.web.server import Request, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def precondition(self, request: Request, stored: Stored) -> int:
        bare = without(without(request, "if-match"), "if-unmodified-since")
        first = super().precondition(bare, stored)
        return first if first == 304 else super().precondition(request, stored)


def witness(web: Client) -> object:
    sample = web.sample()
    return web.get(sample.path, If_Match='"other"', If_None_Match=sample.etag).status


FAULT = Fault("DL-04g", Server, witness, "conditions in the order of their fame")
