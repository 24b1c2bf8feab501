"""The upload that waited in vain is answered 503."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    @contextmanager
    def patient(self, key: str) -> Iterator[None]:
        if not self.locks.wait_free(key, self.settings.lock_wait):
            raise Refused(503, "Busy")
        with self.locks.holding(key, 1):
            yield

    def locked(self, key: str, path: Optional[bytes], filename: bytes) -> AbstractContextManager[None]:
        return self.patient(key)


def witness(kci: Client) -> object:
    with kci.holding(kci.key("a")):
        return kci.upload(kci.key("a"), b"x").status


FAULT = Fault("UP-09c", Server, witness, "a timeout nobody mapped")
