"""Whoever has no token uploads as a guest."""

from __future__ import annotations

from conformance.kernelci.client import FORM_TYPE, Client, field, file, form
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused, Request


class Server(Reference):
    def authenticate(self, request: Request) -> str:
        try:
            return super().authenticate(request)
        except Refused:
            if request.path != "/upload":
                raise
            return "guest@example.org"


def witness(kci: Client) -> object:
    body = form(field("path", kci.folder), file("guest", b"x"))
    return kci.request("POST", "/upload", [FORM_TYPE], body).status


FAULT = Fault(
    "AU-05a",
    Server,
    witness,
    "a route that was left out of the middleware",
    blast=(
        "AU-*",
        "UP-11",
    ),
)
