"""The digest of a 206 is that of the part."""

from __future__ import annotations

from conformance.core import oracle
from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Headers, Stored
from conformance.stor.client import Client


class Server(Reference):
    def one_part(self, span: oracle.Span, stored: Stored, headers: Headers) -> Answer:
        others = [pair for pair in headers if pair[0] != "Repr-Digest"]
        return super().one_part(span, stored, others + self.repr_digest(stored.data[span.first : span.last + 1]))


def witness(stor: Client) -> object:
    return stor.get(stor.sample().path, Range="bytes=0-9").get("Repr-Digest")


FAULT = Fault("SO-01d", Server, witness, "Content-Digest and Repr-Digest taken for one")
