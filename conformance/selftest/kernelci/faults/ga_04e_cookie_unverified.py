"""Any cookie that looks like one opens the download."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci import tokens
from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def cookie_claims(self, value: str) -> Optional[dict[str, object]]:
        return tokens.claims_of(value)


def witness(kci: Client) -> object:
    forged = tokens.unsigned({"exp": 9999999999}, "none")
    path = kci.sample().path
    return kci.get(path, User_Agent="challenged-browser", Cookie=f"kci-download={forged}").get("Content-Type")


FAULT = Fault("GA-04e", Server, witness, "a JWT that is decoded and not verified")
