"""Uploads of different keys wait for each other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Optional

from conformance.kernelci.client import FORM_TYPE, Client, field, file, form
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def locked(self, key: str, path: Optional[bytes], filename: bytes) -> AbstractContextManager[None]:
        return self.locks.holding("one", self.settings.lock_wait)

    def await_upload(self, key: str) -> None:
        if "/witness" in key or key.endswith("held.bin"):
            super().await_upload("one")


def witness(kci: Client) -> object:
    with kci.holding(kci.key("held.bin")):
        body = form(field("path", kci.folder), file("b", b"x"))
        probe = kci.connection()
        probe.send(
            kci.head("POST", "/v1/file", [kci.authorised(), FORM_TYPE, ("Content-Length", str(len(body)))]) + body
        )
        return probe.answered_within(0.5)


FAULT = Fault(
    "UP-09f",
    Server,
    witness,
    "one lock for all",
    blast=(
        "UP-09*",
        "DL-06*",
        "LS-01e",
        "UP-08*",
    ),
)
