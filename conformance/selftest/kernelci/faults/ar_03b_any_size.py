"""A member of any size is unpacked."""

from __future__ import annotations

import gzip

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_member_size(self, size: int) -> None:
        return


def witness(kci: Client) -> object:
    data = gzip.compress(tar((("a", bytes(kci.run.options.limits["member"] + 1)),)), 1)
    return kci.post(field("path", kci.folder), file("a.tgz", data, "archive"), route="/v1/archive").status


FAULT = Fault("AR-03b", Server, witness, "a server without limits")
