"""A second upload of a key is 409 at once instead of waiting."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Optional

from conformance.selftest.fault import Benign
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def locked(self, key: str, path: Optional[bytes], filename: bytes) -> AbstractContextManager[None]:
        return self.locks.holding(key, 0)


BENIGN = Benign(Server, "`up to 30 s` allows none; UP-09b is a SHOULD", warns=("UP-09b",))
