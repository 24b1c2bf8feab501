"""A chunked body ends at 16 MiB."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Body
from conformance.stor.client import Client, path_of


class Server(Reference):
    def pieces(self, body: Body) -> Iterator[bytes]:
        size = 0
        for data in super().pieces(body):
            size += len(data)
            if size <= 16 << 20 or not body.chunked:
                yield data


def witness(stor: Client) -> object:
    data = stor.fresh("a", 17 << 20)
    connection = stor.connection()
    connection.send(stor.post_head(path_of(data), [("Transfer-Encoding", "chunked")]))
    connection.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data), opening=False)
    return connection.receive("POST").status


FAULT = Fault("SO-04a", Server, witness, "a limit that was set for forms", blast=("SO-04*",))
