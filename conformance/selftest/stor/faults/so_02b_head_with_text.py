"""HEAD of what is missing has content."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request, Wire
from conformance.stor.client import Client


class Server(Reference):
    def send(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        missing = request is not None and request.method == "HEAD" and answer.status == 404
        super().send(wire, request._replace(method="GET") if missing and request is not None else request, answer)


def witness(stor: Client) -> object:
    connection = stor.connection()
    connection.send(stor.head("HEAD", stor.missing()) + stor.head("GET", "/"))
    connection.receive("HEAD")
    return connection.receive().status


FAULT = Fault(
    "SO-02b",
    Server,
    witness,
    "an error page that is sent whatever the method",
    blast=(
        "ST-01b",
        "SO-02c",
    ),
)
