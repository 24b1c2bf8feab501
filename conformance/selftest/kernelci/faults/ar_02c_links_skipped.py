"""Links and devices are silently left out."""

from __future__ import annotations

import tarfile

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def skipped(self, info: tarfile.TarInfo) -> bool:
        return not info.isreg()


def witness(kci: Client) -> object:
    link = tarfile.TarInfo("link")
    link.type = tarfile.SYMTYPE
    data = tar((("a", b"x"), ("b", b"x")), link)
    return kci.post(field("path", kci.folder), file("a.tar", data, "archive"), route="/v1/archive").status


FAULT = Fault("AR-02c", Server, witness, "a loop over regular files")
