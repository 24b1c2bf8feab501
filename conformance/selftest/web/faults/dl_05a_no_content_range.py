"""A 206 does not say which bytes it holds."""

from __future__ import annotations

from conformance.core import oracle
from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def one_part(self, span: oracle.Span, stored: Stored, headers: Headers) -> Answer:
        return Answer(206, stored.data[span.first : span.last + 1], headers)


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=2-5").get("Content-Range")


FAULT = Fault("DL-05a", Server, witness, "a header that was forgotten", blast=("*",))
