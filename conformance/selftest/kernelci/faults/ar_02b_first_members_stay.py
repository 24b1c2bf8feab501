"""The members before the bad one are stored."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Callable, Optional

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Part, Reference
from conformance.selftest.web.server import Body, Refused


class Server(Reference):
    def check_member(self, info: tarfile.TarInfo) -> None:
        try:
            super().check_member(info)
        except Refused:
            folder = vars(self).get("folder", b"")
            self.commit(self.storage_key(folder, b"a.txt"), b"alpha", "text/plain", "")
            raise

    def parts(self, body: Body, boundary: bytes, begun: Callable[[str, Optional[bytes]], None]) -> Iterator[Part]:
        for part in super().parts(body, boundary, begun):
            if part.name == "path":
                vars(self)["folder"] = part.content
            yield part


def witness(kci: Client) -> object:
    data = tar((("a.txt", b"x"), ("../b", b"x")))
    kci.post(field("path", kci.folder), file("a.tar", data, "archive"), route="/v1/archive")
    return kci.download(kci.key("a.txt")).status


FAULT = Fault(
    "AR-02b",
    Server,
    witness,
    "a loop that stores while it reads",
    blast=(
        "AR-02*",
        "AR-03*",
    ),
)
