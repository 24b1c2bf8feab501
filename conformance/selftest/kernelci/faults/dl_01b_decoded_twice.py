"""The path of a download is decoded twice."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def decoded(self, path: str) -> bytes:
        return unquote_to_bytes(super().decoded(path))


def witness(kci: Client) -> object:
    kci.stored(kci.key("a b"), b"x")
    return kci.get(f"/{kci.folder}/a%2520b").status


FAULT = Fault(
    "DL-01b",
    Server,
    witness,
    "a proxy and a server that both decode",
    blast=(
        "UP-03d",
        "DL-03*",
    ),
)
