"""Whole objects and texts are sent chunked to HTTP/1.1, in odd pieces, with extensions and a trailer."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Benign
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Headers, Request, Wire


class Server(Reference):
    def chunks(self, request: Optional[Request], answer: Answer) -> bool:
        plain = answer.status == 200 and request is not None and request.minor == 1 and request.method == "GET"
        return plain and "range" not in request.headers if request is not None else False

    def framing_headers(self, request: Optional[Request], answer: Answer) -> Headers:
        if self.chunks(request, answer):
            return [("Transfer-Encoding", "chunked")]
        return super().framing_headers(request, answer)

    def send_body(self, wire: Wire, request: Optional[Request], answer: Answer) -> None:
        if not self.chunks(request, answer):
            return super().send_body(wire, request, answer)
        cuts = [0, 1, 3, 4000, *range(70_000, len(answer.body), 70_000), len(answer.body)]
        pieces = [answer.body[a:b] for a, b in zip(cuts, cuts[1:])]
        coded = b"".join(b"%X;a=b\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
        wire.sock.sendall(coded + b"0\r\nX-Trailer: 1\r\n\r\n")
        return None


BENIGN = Benign(Server, "RFC 9112 7.1")
