"""An archive with directory entries is refused."""

from __future__ import annotations

import tarfile

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def skipped(self, info: tarfile.TarInfo) -> bool:
        return False


def witness(kci: Client) -> object:
    data = tar((("./", None), ("a", b"x")))
    return kci.post(field("path", kci.folder), file("a.tar", data, "archive"), route="/v1/archive").status


FAULT = Fault("AR-02a", Server, witness, "a rule for members that knows files only")
