"""The key of an upload is percent-decoded."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def key_text(self, raw: bytes) -> str:
        return unquote_to_bytes(raw).decode("utf-8")


def witness(kci: Client) -> object:
    kci.upload(kci.key("a%20b"), b"x")
    return kci.download(kci.key("a%20b")).status


FAULT = Fault("UP-03d", Server, witness, "a key that passes through a URL library", blast=("DL-01b",))
