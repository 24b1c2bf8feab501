"""A token without an email is somebody with an empty name."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def email(self, claims: dict[str, object]) -> Optional[str]:
        return str(claims.get("email", ""))


def witness(kci: Client) -> object:
    return kci.request("GET", "/v1/checkauth", [("Authorization", kci.minted({}))]).status


FAULT = Fault("AU-03a", Server, witness, "a claim read with a default")
