"""The signature is not looked at."""

from __future__ import annotations

from conformance.kernelci import tokens
from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def signature_right(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        return algorithm == "HS256"


def witness(kci: Client) -> object:
    token = tokens.mint("another secret", {"email": "a@b"})
    return kci.request("GET", "/v1/checkauth", [("Authorization", token)]).status


FAULT = Fault("AU-02a", Server, witness, "verify=False left in after debugging", blast=("AU-*",))
