"""The paths are lines of text."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Headers
from conformance.stor.client import Client


class Server(Reference):
    def json(self, status: int, shape: object, headers: Optional[Headers] = None) -> Answer:
        return self.text(status, "\n".join(map(str, shape if isinstance(shape, list) else [])))


def witness(stor: Client) -> object:
    return stor.store(stor.fresh("a")).text[:1]


FAULT = Fault(
    "SO-03r",
    Server,
    witness,
    "a list for people",
    blast=(
        "SO-03m",
        "SO-03q",
        "SO-04h",
    ),
)
