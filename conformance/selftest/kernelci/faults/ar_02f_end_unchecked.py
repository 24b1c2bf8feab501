"""An archive that breaks off behind a member is taken as whole."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_end(self, data: bytes, end: int) -> None:
        return


def witness(kci: Client) -> object:
    data = tar((("a", b"x"), ("b", b"x")))[:1024]
    return kci.post(field("path", kci.folder), file("a.tar", data, "archive"), route="/v1/archive").status


FAULT = Fault("AR-02f", Server, witness, "tarfile, which ends silently at damage")
