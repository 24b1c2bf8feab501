"""Content-Type-Upstream is ignored."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Request


class Server(Reference):
    def upload_type(self, request: Request, key: str) -> str:
        return self.type_of(key)


def witness(kci: Client) -> object:
    kci.upload(kci.key("a"), b"x", Content_Type_Upstream="x/y")
    return kci.download(kci.key("a")).get("Content-Type")


FAULT = Fault("UP-06b", Server, witness, "a server without that header", blast=("RB-10",))
