"""A download under an upload is answered at once."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference


class Server(Reference):
    def await_upload(self, key: str) -> None:
        return


def witness(kci: Client) -> object:
    kci.held(kci.key("a"), "x")
    return kci.waiting_reader(kci.key("a")) is None


FAULT = Fault("DL-06a", Server, witness, "a server without reader locks", blast=("*",))
