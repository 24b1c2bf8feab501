"""Scripts can read the cookie."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def cookie_attributes(self) -> str:
        return "; Path=/; Max-Age=600; SameSite=Lax"


def witness(kci: Client) -> object:
    return "HttpOnly" in str(
        kci.request("POST", "/v1/download-challenge", [("User-Agent", "challenged-browser")], b"").headers
    )


FAULT = Fault("GA-04c", Server, witness, "a cookie made by hand")
