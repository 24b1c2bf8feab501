"""A .gz is sent with Content-Encoding, and clients unpack it."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Headers, Stored


class Server(Reference):
    def object_headers(self, key: str, stored: Stored) -> Headers:
        extra = [("Content-Encoding", "gzip")] if key.endswith((".gz", ".tgz")) else []
        return super().object_headers(key, stored) + extra


def witness(kci: Client) -> object:
    kci.upload(kci.key("a.gz"), b"x")
    return kci.download(kci.key("a.gz")).get("Content-Encoding")


FAULT = Fault("UP-06d", Server, witness, "mimetypes.guess_type, whose second value is an encoding")
