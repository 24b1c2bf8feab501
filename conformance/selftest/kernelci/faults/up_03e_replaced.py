"""Bytes that are not UTF-8 become replacement characters."""

from __future__ import annotations

from conformance.kernelci.client import Client, Part, field
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def key_text(self, raw: bytes) -> str:
        return raw.decode("utf-8", "replace")


def witness(kci: Client) -> object:
    return kci.post(field("path", kci.folder), Part("file0", b"x", b"\xff")).status


FAULT = Fault("UP-03e", Server, witness, 'decode(errors="replace")')
