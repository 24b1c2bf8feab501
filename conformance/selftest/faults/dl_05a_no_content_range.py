"""A 206 does not say which bytes it holds."""

from __future__ import annotations

from conformance.core import oracle
from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Headers, Reference, Stored


class Server(Reference):
    def one_part(self, span: oracle.Span, stored: Stored, headers: Headers) -> Answer:
        return Answer(206, stored.data[span.first : span.last + 1], headers)


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, Range="bytes=2-5").get("Content-Range")


FAULT = Fault("DL-05a", Server, witness, "a header that was forgotten", blast=("*",))
