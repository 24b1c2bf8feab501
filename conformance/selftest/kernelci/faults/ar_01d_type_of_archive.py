"""Members have the type of the archive."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def member_type(self, archive: bytes, key: str) -> str:
        return self.type_of(archive.decode())


def witness(kci: Client) -> object:
    kci.post(field("path", kci.folder), file("a.tar", tar((("a.txt", b"x"),)), "archive"), route="/v1/archive")
    return kci.download(kci.key("a.txt")).get("Content-Type")


FAULT = Fault("AR-01d", Server, witness, "the type of the request for every member")
