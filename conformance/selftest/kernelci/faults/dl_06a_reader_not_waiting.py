"""A download under an upload is answered at once."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def await_upload(self, key: str) -> None:
        return


def witness(kci: Client) -> object:
    with kci.holding(kci.key("a")) as held:
        return held.reader is not None


FAULT = Fault("DL-06a", Server, witness, "a server without reader locks", blast=("*",))
