"""A member name that is not UTF-8 is changed."""

from __future__ import annotations

import tarfile

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def members(self, data: bytes) -> list[tuple[bytes, bytes]]:
        return [(name.decode("utf-8", "replace").encode(), content) for name, content in super().members(data)]


def witness(kci: Client) -> object:
    data = tar((("gr\udcfcn", b"x"),), form=tarfile.GNU_FORMAT)
    return kci.post(field("path", kci.folder), file("a.tar", data, "archive"), route="/v1/archive").status


FAULT = Fault("AR-02i", Server, witness, 'decode(errors="replace")')
