"""A + in the key of an upload becomes a blank."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def key_text(self, raw: bytes) -> str:
        return super().key_text(raw).replace("+", " ")


def witness(kci: Client) -> object:
    kci.upload(kci.key("a+b"), b"x")
    return kci.download(kci.key("a+b")).status


FAULT = Fault("UP-03d", Server, witness, "a key that passes through a form library", blast=("DL-01b",))
