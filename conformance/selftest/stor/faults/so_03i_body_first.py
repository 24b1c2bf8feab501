"""The body is read before anything is checked."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Body, Request
from conformance.stor.client import EXPECT, Client


class Replayed(Body):
    """A body that was read already."""

    def __init__(self, data: bytes) -> None:
        self.data, self.ended, self.broken, self.expected = data, True, False, False

    def some(self) -> bytes:
        data, self.data = self.data, b""
        return data


class Server(Reference):
    def upload(self, request: Request) -> Answer:
        body = b"".join(self.pieces(request.body))
        return super().upload(request._replace(body=Replayed(body)))


def witness(stor: Client) -> object:
    connection = stor.connection()
    connection.send(stor.post_head("/no-sha256", [("Content-Length", "9"), EXPECT]))
    return connection.receive_one_head().status


FAULT = Fault(
    "SO-03i",
    Server,
    witness,
    "Stor 1.5.2",
    blast=(
        "SO-03m",
        "SO-03t",
        "SO-04*",
        "RB-0*",
    ),
)
