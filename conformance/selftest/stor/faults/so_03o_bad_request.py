"""A mismatch is 400."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Refused
from conformance.stor.client import Client


class Server(Reference):
    def check_content(self, name: str, content: str) -> None:
        if content != name:
            raise Refused(400, f"Content sha256 {content} doesn't match given sha256 {name}")


def witness(stor: Client) -> object:
    return stor.post(stor.missing(), b"x").status


FAULT = Fault("SO-03o", Server, witness, "400 for everything that a client does wrong", blast=("SO-0*",))
