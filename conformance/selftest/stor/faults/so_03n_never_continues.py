"""100-continue is not known, and the body awaited in silence."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Request, Wire
from conformance.stor.client import EXPECT, Client, path_of


class Server(Reference):
    def read_request(self, wire: Wire) -> Request:
        request = super().read_request(wire)
        request.body.expected = False
        return request


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    connection = stor.connection()
    connection.send(stor.post_head(path_of(data), [("Content-Length", "1000"), EXPECT]))
    return connection.answered_within(0.5)


FAULT = Fault(
    "SO-03n",
    Server,
    witness,
    "HTTP/1.0 servers, for which curl waits a second each time",
    blast=(
        "SO-03m",
        "SO-03i",
    ),
)
