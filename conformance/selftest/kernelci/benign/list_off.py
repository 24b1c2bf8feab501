"""The operator turned the listing off, and says so."""

from __future__ import annotations

from conformance.selftest.fault import Benign
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Refused, Request


class Server(Reference):
    def listing(self, request: Request) -> Answer:
        raise Refused(403, "Forbidden")


BENIGN = Benign(Server, "`[list] enabled = false`", capabilities=(("list", "off"),))
