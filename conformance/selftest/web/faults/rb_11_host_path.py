"""An error shows a path of the host."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Refused, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def refusal(self, refused: Refused) -> Answer:
        return self.text(refused.status, f"[Errno 2] {refused.text}: '/srv/storage/objects'", refused.headers)


def witness(web: Client) -> object:
    return web.get(web.not_an_object).text


FAULT = Fault("RB-11", Server, witness, "str(error) as the answer", blast=("SO-02a",))
