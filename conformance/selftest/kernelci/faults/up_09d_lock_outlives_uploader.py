"""The lock stays when the uploader vanishes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Gone


class Server(Reference):
    @contextmanager
    def stubborn(self, key: str) -> Iterator[None]:
        lock = self.locks.holding(key, self.settings.lock_wait)
        vars(self).setdefault("kept", []).append(lock)  # a context manager that is forgotten leaves by itself
        lock.__enter__()
        try:
            yield
        except Gone:
            raise
        except BaseException:
            lock.__exit__(None, None, None)
            raise
        else:
            lock.__exit__(None, None, None)

    def locked(self, key: str, path: Optional[bytes], filename: bytes) -> AbstractContextManager[None]:
        return self.stubborn(key)


def witness(kci: Client) -> object:
    with kci.holding(kci.key("a")) as held:
        held.connection.close()
        return kci.upload(kci.key("a"), b"x").status


FAULT = Fault(
    "UP-09d",
    Server,
    witness,
    "a lock that is freed on success only",
    blast=(
        "UP-08*",
        "UP-09*",
    ),
)
