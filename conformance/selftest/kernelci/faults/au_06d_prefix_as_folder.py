"""The prefix only covers whole folders."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def covered(self, prefixes: list[str], key: str) -> bool:
        return any(key.startswith(prefix.strip("/") + "/") for prefix in prefixes)


def witness(kci: Client) -> object:
    return kci.post(field("path", "allowed-2"), file("b", b"x"), token=kci.secret("limited", "")).status


FAULT = Fault("AU-06d", Server, witness, "a server that means well")
