"""200 is sent before the new version can be read."""

from __future__ import annotations

import threading

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def commit(self, key: str, data: bytes, kind: str, owner: str) -> None:
        later = super().commit
        if self.look_up(key) is None:
            later(key, data, kind, owner)
        else:
            threading.Timer(0.05, later, (key, data, kind, owner)).start()


def witness(kci: Client) -> object:
    key = kci.stored(kci.key("a"), b"old")
    kci.stored(key, b"new")
    return kci.download(key).body


FAULT = Fault("UP-08d", Server, witness, "a write handed to another thread", blast=("*",))
