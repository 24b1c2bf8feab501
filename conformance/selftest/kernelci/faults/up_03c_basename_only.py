"""The folders of a filename are dropped."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def joined(self, path: bytes, filename: bytes) -> bytes:
        return path + b"/" + filename.rpartition(b"/")[2]


def witness(kci: Client) -> object:
    kci.post(field("path", kci.folder), file("x/b", b"x"))
    return kci.download(kci.key("x/b")).status


FAULT = Fault("UP-03c", Server, witness, "frameworks that cut a filename down to its last part", blast=("*",))
