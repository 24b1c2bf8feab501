"""The decoded path comes back in a header, line ends and all."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Refused, Request, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def answer(self, request: Request, peer: str) -> Answer:
        try:
            answer = super().answer(request, peer)
        except Refused as refused:
            if request.method == "POST":
                raise
            answer = self.refusal(refused)
        answer.headers.append(("X-Path", self.decoded(request.path).decode("latin-1")))
        return answer


def witness(web: Client) -> object:
    return web.get("/a%0d%0aX-Injected:%20yes").get("X-Injected")


FAULT = Fault("RB-10", Server, witness, "a path that is echoed decoded", blast=("*",))
