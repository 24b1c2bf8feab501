"""A chunk size with a sign is read."""

from __future__ import annotations

from conformance.kernelci.client import FORM_TYPE, Client, field, file, form
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference


class Server(Reference):
    def chunk_size(self, line: bytes) -> int:
        try:
            return abs(int(line.partition(b";")[0], 16))
        except ValueError:
            return super().chunk_size(line)


def witness(kci: Client) -> object:
    body = form(field("path", kci.folder), file("b", b"x"))
    connection = kci.connection()
    coded = b"0x%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    connection.send(
        kci.head("POST", "/v1/file", [kci.authorised(), FORM_TYPE, ("Transfer-Encoding", "chunked")]) + coded
    )
    return connection.receive("POST").status


FAULT = Fault("RB-07", Server, witness, "int(line, 16), which reads +5 and 0x5")
