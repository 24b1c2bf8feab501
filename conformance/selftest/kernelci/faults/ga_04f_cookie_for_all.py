"""Any agent is given a cookie."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def challenge(self, request: Request) -> Answer:
        return super().challenge(request._replace(headers={**request.headers, "user-agent": "challenged-browser"}))


def witness(kci: Client) -> object:
    return kci.request("POST", "/v1/download-challenge", body=b"").status


FAULT = Fault("GA-04f", Server, witness, "a handler that forgets the agent")
