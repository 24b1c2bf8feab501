"""A quote in the name ends the quoted string."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def safe_name(self, name: str) -> str:
        return name


def witness(kci: Client) -> object:
    kci.post(field("path", kci.folder), file('a\\"b', b"x"))
    return kci.download(kci.key('a"b')).get("Content-Disposition")


FAULT = Fault("DL-02c", Server, witness, "string formatting")
