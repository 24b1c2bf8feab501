"""Another spelling of the same key has another lock."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Optional

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def locked(self, key: str, path: Optional[bytes], filename: bytes) -> AbstractContextManager[None]:
        return self.locks.holding(((path or b"") + b"/" + filename).decode().lstrip("/"), self.settings.lock_wait)


def witness(kci: Client) -> object:
    with kci.holding(kci.key("a")):
        return kci.post(field("path", f"./{kci.folder}"), file("a", b"x")).status == 200


FAULT = Fault("UP-09g", Server, witness, "a lock on the name as it was sent", blast=("DL-06*",))
