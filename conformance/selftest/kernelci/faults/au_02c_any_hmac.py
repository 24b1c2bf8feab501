"""HS512 is accepted too."""

from __future__ import annotations

import hashlib

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def signature_right(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        if algorithm == "HS512":
            return self.hmac_right(self.settings.secret, hashlib.sha512, signed, signature)
        return super().signature_right(algorithm, signed, signature)


def witness(kci: Client) -> object:
    return kci.request("GET", "/v1/checkauth", [("Authorization", kci.minted({"email": "a@b"}, "HS512"))]).status


FAULT = Fault("AU-02c", Server, witness, "a list of algorithms taken from the library's example")
