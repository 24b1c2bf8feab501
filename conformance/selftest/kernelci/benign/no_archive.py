"""A server without the archive route and the challenge."""

from __future__ import annotations

from typing import Callable

from conformance.selftest.fault import Benign
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def routes(self) -> dict[str, dict[str, Callable[[Request], Answer]]]:
        known = super().routes()
        return {path: known[path] for path in known if path not in ("/v1/archive", "/v1/download-challenge")}

    def challenged(self, request: Request) -> bool:
        return False


BENIGN = Benign(Server, "both are optional", capabilities=(("archive", "off"), ("challenge", "off")))
