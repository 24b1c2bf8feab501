"""A suffix range is 416."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        if header.startswith("bytes=-"):
            return self.unsatisfiable(len(stored.data))
        return super().partial(header, stored, headers)


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=-2").status


FAULT = Fault("DL-05c", Server, witness, "kernelci-storage 0.2.1", blast=("DL-05*",))
