"""A 304 has no Cache-Control."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request, Stored
from conformance.stor.client import Client


class Server(Reference):
    def served(self, request: Request, key: str, stored: Stored) -> Answer:
        answer = super().served(request, key, stored)
        if answer.status == 304:
            answer.headers = [pair for pair in answer.headers if pair[0] != "Cache-Control"]
        return answer


def witness(stor: Client) -> object:
    sample = stor.sample()
    return stor.get(sample.path, If_None_Match=sample.etag).get("Cache-Control")


FAULT = Fault("SO-01e", Server, witness, "a 304 that is made before the headers are")
