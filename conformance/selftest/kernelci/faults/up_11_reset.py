"""The connection is reset before the client could read the refusal."""

from __future__ import annotations

import socket
import struct

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Wire


class Server(Reference):
    def linger(self, wire: Wire) -> None:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def witness(kci: Client) -> object:
    connection = kci.connection()
    return connection.send(kci.head("POST", "/v1/file", [("Content-Length", str(6 << 20))]) + bytes(6 << 20))


FAULT = Fault("UP-11", Server, witness, "a close with unread bytes, which TCP makes a reset", blast=("*",))
