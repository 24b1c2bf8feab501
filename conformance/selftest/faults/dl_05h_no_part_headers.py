"""The parts do not say which bytes they hold."""

from __future__ import annotations

import re

from conformance.core import oracle
from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Headers, Reference, Stored


class Server(Reference):
    def several_parts(self, spans: tuple[oracle.Span, ...], stored: Stored, headers: Headers) -> Answer:
        answer = super().several_parts(spans, stored, headers)
        answer.body = re.sub(rb"Content-Range: [^\r]*\r\n", b"", answer.body)
        return answer


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, Range="bytes=0-1,4-5").body


FAULT = Fault("DL-05h", Server, witness, "multipart by hand", blast=("DL-05*",))
