"""A token with an audience is refused."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def token_claims(self, token: str) -> Optional[dict[str, object]]:
        claims = super().token_claims(token)
        return None if claims is None or "aud" in claims else claims


def witness(kci: Client) -> object:
    return kci.request("GET", "/v1/checkauth", [("Authorization", kci.minted({"email": "a@b", "aud": "x"}))]).status


FAULT = Fault("AU-03b", Server, witness, "PyJWT, which refuses an audience nobody asked for")
