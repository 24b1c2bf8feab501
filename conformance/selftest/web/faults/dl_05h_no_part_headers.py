"""The parts do not say which bytes they hold."""

from __future__ import annotations

import re

from conformance.core import oracle
from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def several_parts(self, spans: tuple[oracle.Span, ...], stored: Stored, headers: Headers) -> Answer:
        answer = super().several_parts(spans, stored, headers)
        answer.body = re.sub(rb"Content-Range: [^\r]*\r\n", b"", answer.body)
        return answer


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=0-1,4-5").body


FAULT = Fault("DL-05h", Server, witness, "multipart by hand", blast=("DL-05*",))
