"""The 412 does not tell the hashes."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Refused
from conformance.stor.client import Client


class Server(Reference):
    def check_content(self, name: str, content: str) -> None:
        if content != name:
            raise Refused(412, "Precondition Failed")


def witness(stor: Client) -> object:
    return stor.post(stor.missing(), b"x").text


FAULT = Fault("SO-03o", Server, witness, "the reason of the status as the text")
