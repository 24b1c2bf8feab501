"""An end of more than 64 bits is taken for no range."""

from __future__ import annotations

import re

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        if any(int(number) >= 2**64 for number in re.findall(r"[0-9]+", header)):
            return Answer(200, stored.data, headers)
        return super().partial(header, stored, headers)


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range=f"bytes=0-{2**65}").status


FAULT = Fault("DL-05d", Server, witness, "a number of 64 bits", blast=("DL-05*",))
