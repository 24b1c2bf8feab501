"""An object is sent without its length."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Headers, Request
from conformance.stor.client import Client


class Server(Reference):
    def framing_headers(self, request: Optional[Request], answer: Answer) -> Headers:
        if answer.status == 200 and request is not None and self.name(request.path) and request.method == "GET":
            answer.close = True
            return [("Connection", "close")]
        return super().framing_headers(request, answer)


def witness(stor: Client) -> object:
    return stor.get(stor.sample().path).get("Content-Length")


FAULT = Fault("SO-01a", Server, witness, "streams of unknown length", blast=("*",))
