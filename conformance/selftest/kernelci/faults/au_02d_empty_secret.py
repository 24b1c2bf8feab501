"""A secret that is not configured counts as the empty one."""

from __future__ import annotations

from conformance.kernelci import tokens
from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def secrets(self) -> list[str]:
        return [*super().secrets(), ""]


def witness(kci: Client) -> object:
    return kci.request("GET", "/v1/checkauth", [("Authorization", tokens.mint("", {"email": "a@b"}))]).status


FAULT = Fault("AU-02d", Server, witness, "kernelci-storage 0.2.1 without a configured secret")
