"""A second upload of the key does not wait for the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def locked(self, key: str, path: Optional[bytes], filename: bytes) -> AbstractContextManager[None]:
        return self.shown_only(key)

    @contextmanager
    def shown_only(self, key: str) -> Iterator[None]:
        self.locks.held.add(key)
        try:
            yield
        finally:
            self.locks.held.discard(key)
            with self.locks.changed:
                self.locks.changed.notify_all()


def witness(kci: Client) -> object:
    with kci.holding(kci.key("a")):
        return kci.upload(kci.key("a"), b"x").status == 200


FAULT = Fault("UP-09a", Server, witness, "a lock that only readers look at", blast=("UP-09*",))
