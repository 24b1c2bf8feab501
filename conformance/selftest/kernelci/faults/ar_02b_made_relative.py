"""An absolute member is stored below the path."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_member_name(self, name: str) -> None:
        return


def witness(kci: Client) -> object:
    data = tar((("/a", b"x"),))
    return kci.post(field("path", kci.folder), file("a.tar", data, "archive"), route="/v1/archive").status


FAULT = Fault("AR-02b", Server, witness, "tar itself, which drops the leading /")
