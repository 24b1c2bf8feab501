"""A 304 has no ETag."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Request, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def served(self, request: Request, key: str, stored: Stored) -> Answer:
        answer = super().served(request, key, stored)
        if answer.status == 304:
            answer.headers = [pair for pair in answer.headers if pair[0] != "ETag"]
        return answer


def witness(web: Client) -> object:
    sample = web.sample()
    return web.get(sample.path, If_None_Match=sample.etag).get("ETag")


FAULT = Fault("DL-04f", Server, witness, "a bare 304", blast=("DL-04*",))
