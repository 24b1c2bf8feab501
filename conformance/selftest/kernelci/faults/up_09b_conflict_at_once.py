"""A second upload of the key is 409 at once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Optional

from conformance.kernelci.client import FORM_TYPE, Client, field, file, form
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def locked(self, key: str, path: Optional[bytes], filename: bytes) -> AbstractContextManager[None]:
        return self.locks.holding(key, 0)


def witness(kci: Client) -> object:
    with kci.holding(kci.key("a")):
        body = form(field("path", kci.folder), file("a", b"x"))
        probe = kci.connection()
        probe.send(
            kci.head("POST", "/v1/file", [kci.authorised(), FORM_TYPE, ("Content-Length", str(len(body)))]) + body
        )
        return probe.answered_within(0.3)


FAULT = Fault("UP-09b", Server, witness, "a lock that is tried and not waited for", blast=("UP-09c",))
