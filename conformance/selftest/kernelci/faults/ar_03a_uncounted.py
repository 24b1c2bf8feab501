"""Any number of files is unpacked."""

from __future__ import annotations

import gzip
import tarfile

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_count(self, found: int) -> None:
        return


def witness(kci: Client) -> object:
    limit = kci.run.options.limits["files"] + 1
    data = gzip.compress(tar([(f"{number}", b"") for number in range(limit)], form=tarfile.GNU_FORMAT), 1)
    return kci.post(field("path", kci.folder), file("a.tgz", data, "archive"), route="/v1/archive").status


FAULT = Fault("AR-03a", Server, witness, "a server without limits")
