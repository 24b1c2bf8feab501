"""A range of an empty object is 206 with `bytes 0--1/0`."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Headers, Reference, Stored


class Server(Reference):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        if not stored.data and header.startswith("bytes="):
            return Answer(206, b"", [*headers, ("Content-Range", "bytes 0--1/0")])
        return super().partial(header, stored, headers)


def witness(kci: Client) -> object:
    return kci.download(kci.stored(kci.key("empty"), b""), Range="bytes=0-").status


FAULT = Fault("DL-05k", Server, witness, "first and last of no bytes")
