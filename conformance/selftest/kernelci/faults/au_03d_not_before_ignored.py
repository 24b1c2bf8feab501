"""A token is valid before its time."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def already_valid(self, claims: dict[str, object], now: float) -> bool:
        return True


def witness(kci: Client) -> object:
    return kci.request(
        "GET", "/v1/checkauth", [("Authorization", kci.minted({"email": "a@b", "nbf": 9999999999}))]
    ).status


FAULT = Fault("AU-03d", Server, witness, "kernelci-storage 0.2.1")
