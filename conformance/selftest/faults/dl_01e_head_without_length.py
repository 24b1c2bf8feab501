"""HEAD has no Content-Length."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Headers, Reference, Request


class Server(Reference):
    def framing_headers(self, request: Optional[Request], answer: Answer) -> Headers:
        if request is not None and request.method == "HEAD":
            return []
        return super().framing_headers(request, answer)


def witness(kci: Client) -> object:
    return kci.request("HEAD", kci.sample().path).get("Content-Length")


FAULT = Fault(
    "DL-01e",
    Server,
    witness,
    "chunked answers",
    blast=(
        "DL-05j",
        "CH-02a",
    ),
)
