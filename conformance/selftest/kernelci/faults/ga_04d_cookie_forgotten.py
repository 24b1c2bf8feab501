"""The cookie opens nothing."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Request


class Server(Reference):
    def cookie_valid(self, request: Request) -> bool:
        return False


def witness(kci: Client) -> object:
    answer = kci.request("POST", "/v1/download-challenge", [("User-Agent", "challenged-browser")], b"")
    cookie = str(answer.get("Set-Cookie")).partition(";")[0]
    return kci.get(kci.sample().path, User_Agent="challenged-browser", Cookie=cookie).get("Content-Type")


FAULT = Fault("GA-04d", Server, witness, "a cookie that is set under another name than it is read", blast=("GA-04e",))
