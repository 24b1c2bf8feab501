"""The other banner, other reasons and another name of the server."""

from __future__ import annotations

from conformance.selftest.fault import Benign
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Headers, Request


class Server(Reference):
    def banner(self, request: Request) -> Answer:
        return self.text(200, "Welcome to the KernelCI Proxy Server, version 7")

    def present(self, headers: Headers) -> Headers:
        return [(name, "kci/7 (Debian)" if name == "Server" else value) for name, value in headers]


BENIGN = Benign(Server, "two banners are deployed")
