"""The last byte of a range is missing."""

from __future__ import annotations

from conformance.core import oracle
from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def one_part(self, span: oracle.Span, stored: Stored, headers: Headers) -> Answer:
        return super().one_part(oracle.Span(span.first, max(span.first, span.last - 1)), stored, headers)


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=2-5").body


FAULT = Fault("DL-05a", Server, witness, "a slice", blast=("*",))
