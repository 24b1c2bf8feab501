""".txz is not known."""

from __future__ import annotations

import lzma
from typing import Optional

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    def suffix(self, name: Optional[bytes]) -> str:
        found = super().suffix(name)
        if found == "txz":
            raise Refused(400, "Unknown suffix")
        return found


def witness(kci: Client) -> object:
    data = lzma.compress(tar((("a", b"x"),)))
    return kci.post(field("path", kci.folder), file("a.txz", data, "archive"), route="/v1/archive").status


FAULT = Fault("AR-01b", Server, witness, "a list of suffixes with a gap")
