"""A chunk size with a sign is read."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import WebServer
from conformance.web.client import Client


class Server(WebServer):
    def chunk_size(self, line: bytes) -> int:
        try:
            return abs(int(line.partition(b";")[0], 16))
        except ValueError:
            return super().chunk_size(line)


def witness(web: Client) -> object:
    storing = web.storing("chunked")
    coded = b"0x%x\r\n" % len(storing.body) + storing.body + b"\r\n0\r\n\r\n"
    connection = web.connection()
    connection.send(storing.head([("Transfer-Encoding", "chunked")]) + coded)
    return connection.receive("POST").status


FAULT = Fault("RB-07", Server, witness, "int(line, 16), which reads +5 and 0x5")
