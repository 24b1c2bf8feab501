"""A 304 says Content-Length: 0, and a cache stores an empty object."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Request, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def framing_headers(self, request: Optional[Request], answer: Answer) -> Headers:
        return [("Content-Length", "0")] if answer.status == 304 else super().framing_headers(request, answer)


def witness(web: Client) -> object:
    sample = web.sample()
    return web.get(sample.path, If_None_Match=sample.etag).get("Content-Length")


FAULT = Fault("DL-04f", Server, witness, "frameworks that add a length to every answer")
