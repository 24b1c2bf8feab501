"""An unknown suffix is taken for a tar."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    def suffix(self, name: Optional[bytes]) -> str:
        try:
            return super().suffix(name)
        except Refused:
            if not name:
                raise
            return "tar"


def witness(kci: Client) -> object:
    data = tar((("a", b"x"),))
    return kci.post(field("path", kci.folder), file("a.zip", data, "archive"), route="/v1/archive").status


FAULT = Fault("AR-02e", Server, witness, "a format that is guessed")
