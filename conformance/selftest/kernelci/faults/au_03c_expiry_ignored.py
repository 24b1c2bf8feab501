"""A token is valid for ever."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def not_expired(self, claims: dict[str, object], now: float) -> bool:
        return True


def witness(kci: Client) -> object:
    return kci.request("GET", "/v1/checkauth", [("Authorization", kci.minted({"email": "a@b", "exp": 1}))]).status


FAULT = Fault("AU-03c", Server, witness, "kernelci-storage 0.2.1")
