"""The token says itself that it needs no signature."""

from __future__ import annotations

from conformance.kernelci import tokens
from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def signature_right(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        return algorithm.lower() == "none" or super().signature_right(algorithm, signed, signature)


def witness(kci: Client) -> object:
    token = tokens.unsigned({"email": "a@b"}, "none")
    return kci.request("GET", "/v1/checkauth", [("Authorization", token)]).status


FAULT = Fault("AU-02b", Server, witness, "CVE-2015-9235 and its many children")
