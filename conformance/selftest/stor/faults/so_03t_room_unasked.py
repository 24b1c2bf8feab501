"""The body is asked for before the room is."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Request
from conformance.stor.client import EXPECT, Client


class Server(Reference):
    def check_room(self, request: Request) -> None:
        return


def witness(stor: Client) -> object:
    connection = stor.connection()
    connection.send(stor.post_head(stor.missing(), [("Content-Length", str(10**17)), EXPECT]))
    return connection.receive_one_head().status


FAULT = Fault("SO-03t", Server, witness, "a disk that is found full when it is")
