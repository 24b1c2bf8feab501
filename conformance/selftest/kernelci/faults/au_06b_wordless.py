"""The 403 does not say who may not write where."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def forbidden_text(self, owner: str, key: str) -> str:
        return "Forbidden"


def witness(kci: Client) -> object:
    return kci.upload(kci.key("a"), b"x", token=kci.secret("limited", "")).text


FAULT = Fault("AU-06b", Server, witness, "a middleware's own 403")
