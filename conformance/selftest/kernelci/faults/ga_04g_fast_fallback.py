"""The fallback is as fast as a download."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request, Stored


class Server(Reference):
    def served(self, request: Request, key: str, stored: Stored) -> Answer:
        answer = super().served(request, key, stored)
        answer.headers = [pair for pair in answer.headers if pair[0] != "X-Accel-Limit-Rate"]
        return answer


def witness(kci: Client) -> object:
    path = kci.sample().path + "?challenge_fallback=1"
    return kci.get(path, User_Agent="challenged-browser").get("X-Accel-Limit-Rate")


FAULT = Fault("GA-04g", Server, witness, "a proxy header that was left out")
