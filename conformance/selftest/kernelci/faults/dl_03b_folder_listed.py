"""A folder is listed."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer


class Server(Reference):
    def missing(self, key: str) -> Answer:
        inside = [other for other in self.objects if other.startswith(key.rstrip("/") + "/")]
        return self.text(200, "\n".join(inside)) if inside else super().missing(key)


def witness(kci: Client) -> object:
    kci.stored(kci.key("x/a"), b"x")
    return kci.download(kci.key("x")).status


FAULT = Fault("DL-03b", Server, witness, "an index of files")
