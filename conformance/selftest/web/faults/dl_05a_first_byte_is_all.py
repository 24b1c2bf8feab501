"""0-0 is the whole object."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        return Answer(200, stored.data, headers) if header == "bytes=0-0" else super().partial(header, stored, headers)


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=0-0").status


FAULT = Fault("DL-05a", Server, witness, "kernelci-storage 0.2.1, where an end of 0 means no end", blast=("DL-05*",))
