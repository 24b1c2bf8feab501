"""An upload that breaks off is stored as far as it came."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Body, Gone


class Server(Reference):
    def _fill(self, body: Body, buffer: bytearray, mark: bytes) -> None:
        try:
            super()._fill(body, buffer, mark)
        except Gone:
            body.ended = True
            buffer += mark + b"--\r\n"


def witness(kci: Client) -> object:
    held = kci.held(kci.key("a"), "x")
    held.connection.finish_sending()
    held.connection.receive("POST")
    return kci.download(kci.key("a")).status


FAULT = Fault(
    "UP-08b",
    Server,
    witness,
    "writing straight to the final name",
    blast=(
        "UP-08a",
        "UP-04j",
        "UP-08c",
        "DL-06a",
    ),
)
