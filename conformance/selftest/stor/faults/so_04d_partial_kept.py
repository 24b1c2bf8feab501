"""What came before the break is kept."""

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

    def check_content(self, name: str, content: str) -> None:
        return

    def whole(self, name: str, data: bytes) -> bool:
        return True


def witness(stor: Client) -> object:
    held = stor.half_sent(stor.fresh("a", 200_000))
    held.connection.finish_sending()
    held.connection.receive("POST")
    return stor.get(path_of(held.content)).status


FAULT = Fault(
    "SO-04d", Server, witness, "a handler that takes the end of the connection for the end of the body", blast=("*",)
)
