"""The digest is in hexadecimal."""

from __future__ import annotations

import hashlib

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Headers
from conformance.stor.client import Client


class Server(Reference):
    def repr_digest(self, data: bytes) -> Headers:
        return [("Repr-Digest", f"sha-256=:{hashlib.sha256(data).hexdigest()}:")]


def witness(stor: Client) -> object:
    return stor.sample().response.get("Repr-Digest")


FAULT = Fault("SO-01d", Server, witness, "RFC 3230, read in a hurry")
