"""A 304 says Content-Length: 0, and a cache stores an empty object."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Headers, Reference, Request


class Server(Reference):
    def framing_headers(self, request: Optional[Request], answer: Answer) -> Headers:
        return [("Content-Length", "0")] if answer.status == 304 else super().framing_headers(request, answer)


def witness(kci: Client) -> object:
    sample = kci.sample()
    return kci.get(sample.path, If_None_Match=sample.etag).get("Content-Length")


FAULT = Fault("DL-04f", Server, witness, "frameworks that add a length to every answer")
