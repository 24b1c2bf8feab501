"""A slow reader holds up the others."""

from __future__ import annotations

import threading
from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request, Wire
from conformance.web.client import payload


class Server(Reference):
    def send(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        gates = vars(self).setdefault("gates", {})
        with gates.setdefault(request.path if request is not None else "", threading.Lock()):
            super().send(wire, request, answer)


def witness(kci: Client) -> object:
    sample = kci.sample("large", payload("large", 8 << 20))
    slow, fast = kci.connection(receive_buffer=16384), kci.connection()
    slow.send(kci.head("GET", sample.path))
    slow.receive_head()
    fast.send(kci.head("GET", sample.path))
    return fast.answered_within(0.5)


FAULT = Fault("DL-06c", Server, witness, "one lock for readers and writers", blast=("*",))
