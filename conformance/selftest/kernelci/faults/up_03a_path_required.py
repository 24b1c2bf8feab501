"""An empty path is refused."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    def storage_key(self, path: Optional[bytes], filename: bytes) -> str:
        if not path:
            raise Refused(400, "No path provided")
        return super().storage_key(path, filename)


def witness(kci: Client) -> object:
    return kci.post(file(kci.key("b"), b"x")).status


FAULT = Fault(
    "UP-03a",
    Server,
    witness,
    "kernelci-storage 0.2.1",
    blast=(
        "AU-06c",
        "UP-04*",
        "UP-09g",
    ),
)
