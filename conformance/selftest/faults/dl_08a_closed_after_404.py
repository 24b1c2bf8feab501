"""The connection is closed after a refusal."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Reference, Request, Wire


class Server(Reference):
    def send(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        answer.close = answer.close or answer.status >= 400
        super().send(wire, request, answer)


def witness(kci: Client) -> object:
    return kci.download(kci.key("missing")).closes


FAULT = Fault("DL-08a", Server, witness, "http.server's send_error", blast=("DL-08b",))
