"""An archive without a file is answered 200."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_members(self, members: list[tuple[bytes, bytes]]) -> None:
        return


def witness(kci: Client) -> object:
    return kci.post(field("path", kci.folder), file("a.tar", tar(()), "archive"), route="/v1/archive").status


FAULT = Fault("AR-02d", Server, witness, "a loop over no files")
