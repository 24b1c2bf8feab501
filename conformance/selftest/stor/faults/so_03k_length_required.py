"""A chunked body is 411."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Refused
from conformance.stor.client import Client, path_of


class Server(Reference):
    def framing(self, headers: dict[str, str]) -> Optional[int]:
        length = super().framing(headers)
        if length is None:
            raise Refused(411, "Length Required")
        return length


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    connection = stor.connection()
    connection.send(stor.post_head(path_of(data), [("Transfer-Encoding", "chunked")]) + b"0\r\n\r\n")
    return connection.receive("POST").status


FAULT = Fault(
    "SO-03k",
    Server,
    witness,
    "servers that know the room they need",
    blast=(
        "RB-0*",
        "SO-0*",
    ),
)
