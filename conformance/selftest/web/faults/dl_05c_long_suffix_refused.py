"""A suffix longer than the object is 416."""

from __future__ import annotations

import re

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        match = re.fullmatch(r"bytes=-([0-9]+)", header)
        if match is not None and int(match[1]) > len(stored.data):
            return self.unsatisfiable(len(stored.data))
        return super().partial(header, stored, headers)


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=-9999999").status


FAULT = Fault("DL-05c", Server, witness, "a start below zero", blast=("DL-05*",))
