"""A body that ends early is taken for whole when its hash is right."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Body, Gone
from conformance.stor.client import Client, path_of


class Server(Reference):
    def pieces(self, body: Body) -> Iterator[bytes]:
        try:
            yield from super().pieces(body)
        except Gone:
            return


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    connection = stor.connection()
    connection.send(stor.post_head(path_of(data), [("Content-Length", "2000")]) + data)
    connection.finish_sending()
    return connection.receive("POST").status


FAULT = Fault("SO-04e", Server, witness, "the hash as the only judge")
