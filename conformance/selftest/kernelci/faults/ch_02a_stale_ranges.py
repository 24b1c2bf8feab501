"""Ranges are served from the version that was first read."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Headers, Stored


class Server(Reference):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        first = vars(self).setdefault("first", {})
        return super().partial(header, first.setdefault(dict(headers)["Content-Disposition"], stored), headers)


def witness(kci: Client) -> object:
    key = kci.stored(kci.key("warm"), b"old")
    kci.download(key, Range="bytes=0-0")
    kci.stored(key, b"new")
    return kci.download(key, Range="bytes=0-0").body


FAULT = Fault(
    "CH-02a",
    Server,
    witness,
    "a second cache for parts",
    blast=(
        "DL-05*",
        "DL-06d",
        "UP-08d",
    ),
)
