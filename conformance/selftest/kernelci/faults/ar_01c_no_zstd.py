"""zstd is not known."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar, zstd
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    def zstd(self, data: bytes) -> bytes:
        raise Refused(400, "No zstd")


def witness(kci: Client) -> object:
    data = zstd(tar((("a", b"x"),)))
    return kci.post(field("path", kci.folder), file("a.tzst", data, "archive"), route="/v1/archive").status


FAULT = Fault("AR-01c", Server, witness, "a Python without zstd")
