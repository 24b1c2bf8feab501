"""A body of more than 16 MiB is 413."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Refused, Request
from conformance.stor.client import EXPECT, Client


class Server(Reference):
    def check_room(self, request: Request) -> None:
        super().check_room(request)
        if int(request.headers.get("content-length", "0")) > 16 << 20:
            raise Refused(413, "Too large")


def witness(stor: Client) -> object:
    connection = stor.connection()
    connection.send(stor.post_head(stor.missing(), [("Content-Length", str(17 << 20)), EXPECT]))
    return connection.receive_one_head().status


FAULT = Fault("SO-04a", Server, witness, "frameworks that have such a limit unless it is raised")
