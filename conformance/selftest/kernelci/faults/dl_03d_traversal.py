"""A path of .. leaves the storage."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def download(self, request: Request) -> Answer:
        if b".." in self.decoded(request.path) and request.path.endswith("etc/passwd"):
            return self.text(200, "root:x:0:0:root:/:/bin/sh")
        return super().download(request)


def witness(kci: Client) -> object:
    return kci.get("/../../etc/passwd").status


FAULT = Fault("DL-03d", Server, witness, "os.path.join")
