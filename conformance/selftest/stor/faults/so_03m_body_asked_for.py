"""The body of what is stored is asked for."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import EXPECT, Client, path_of


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        answer = super().upload(request)
        for _ in self.pieces(request.body):
            continue
        return answer


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    stor.stored(data)
    connection = stor.connection()
    connection.send(stor.post_head(path_of(data), [("Content-Length", "1000"), EXPECT]))
    return connection.receive_one_head().status


FAULT = Fault(
    "SO-03m",
    Server,
    witness,
    "Stor 1.5.2",
    blast=(
        "SO-03i",
        "RB-08",
    ),
)
