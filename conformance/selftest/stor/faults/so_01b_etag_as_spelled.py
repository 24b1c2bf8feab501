"""The ETag is the name as it was asked for."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request, Stored
from conformance.stor.client import Client


class Server(Reference):
    def served(self, request: Request, key: str, stored: Stored) -> Answer:
        answer = super().served(request, key, stored)
        answer.headers = [(n, f'"{request.path[1:]}"' if n == "ETag" else v) for n, v in answer.headers]
        return answer


def witness(stor: Client) -> object:
    return stor.get(stor.sample().path.upper()).get("ETag")


FAULT = Fault("SO-01b", Server, witness, "a parameter of the route that is used as it is")
