"""Several ranges are answered from the first start to the first end."""

from __future__ import annotations

from conformance.core import oracle
from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def several_parts(self, spans: tuple[oracle.Span, ...], stored: Stored, headers: Headers) -> Answer:
        return self.one_part(spans[0], stored, headers)


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=0-1,4-5").get("Content-Type")


FAULT = Fault("DL-05h", Server, witness, "kernelci-storage 0.2.1", blast=("DL-05*",))
