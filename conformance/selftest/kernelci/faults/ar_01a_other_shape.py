"""The answer counts `files` instead of `uploaded`."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.kernelci.test_archive import tar
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def archive_shape(self, prefix: str, contents: list[bytes]) -> dict[str, object]:
        shape = super().archive_shape(prefix, contents)
        shape["files"] = shape.pop("uploaded")
        return shape


def witness(kci: Client) -> object:
    return kci.post(field("path", kci.folder), file("a.tar", tar((("a", b"x"),)), "archive"), route="/v1/archive").text


FAULT = Fault("AR-01a", Server, witness, "an answer that was renamed")
