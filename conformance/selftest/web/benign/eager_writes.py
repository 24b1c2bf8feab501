"""Answers in many small writes with pauses of the scheduler between them."""

from __future__ import annotations

import time
from typing import Optional

from conformance.selftest.fault import Benign
from conformance.selftest.web.server import Answer, Request, WebServer, Wire


class Server(WebServer):
    def send_body(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        first = min(len(answer.body), 40)
        for at in range(0, first, 8):
            wire.sock.sendall(answer.body[at : min(at + 8, first)])
            time.sleep(0)
        wire.sock.sendall(answer.body[first:])


BENIGN = Benign(Server, "TCP is a stream")
