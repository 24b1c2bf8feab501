"""A range without an end is ignored."""

from __future__ import annotations

import re

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        if re.fullmatch(r"bytes=[0-9]+-", header):
            return Answer(200, stored.data, headers)
        return super().partial(header, stored, headers)


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=2-").status


FAULT = Fault("DL-05b", Server, witness, "a pattern that wants both ends", blast=("DL-05*",))
