"""An HTTP/1.0 client gets a chunked answer."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Request, WebServer, Wire
from conformance.web.client import Client


class Server(WebServer):
    def framing_headers(self, request: Optional[Request], answer: Answer) -> Headers:
        if request is not None and request.minor == 0:
            return [("Transfer-Encoding", "chunked")]
        return super().framing_headers(request, answer)

    def send_body(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        if request is not None and request.minor == 0:
            wire.sock.sendall(b"%x\r\n" % len(answer.body) + answer.body + b"\r\n0\r\n\r\n")
        else:
            super().send_body(wire, request, answer)


def witness(web: Client) -> object:
    connection = web.connection()
    connection.send(b"GET / HTTP/1.0\r\n\r\n")
    return connection.receive().framing


FAULT = Fault("DL-08c", Server, witness, "answers of unknown length")
