"""A reversed range announces 2^64 bytes and more."""

from __future__ import annotations

import re
from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Request, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def framing_headers(self, request: Optional[Request], answer: Answer) -> Headers:
        match = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", request.headers.get("range", "")) if request else None
        if match is not None and int(match[1]) > int(match[2]) and answer.status == 200:
            return [("Content-Length", str(2**64 + int(match[2]) - int(match[1]) + 1))]
        return super().framing_headers(request, answer)


def witness(web: Client) -> object:
    return web.get(web.sample().path, Range="bytes=5-2").status


FAULT = Fault("DL-05g", Server, witness, "kernelci-storage 0.2.1, where the length underflows", blast=("*",))
