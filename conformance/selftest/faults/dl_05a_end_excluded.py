"""The last byte of a range is missing."""

from __future__ import annotations

from conformance.core import oracle
from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Headers, Reference, Stored


class Server(Reference):
    def one_part(self, span: oracle.Span, stored: Stored, headers: Headers) -> Answer:
        return super().one_part(oracle.Span(span.first, max(span.first, span.last - 1)), stored, headers)


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, Range="bytes=2-5").body


FAULT = Fault("DL-05a", Server, witness, "a slice", blast=("*",))
