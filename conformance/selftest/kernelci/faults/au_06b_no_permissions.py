"""Every user may write everywhere."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def permit(self, owner: str, key: str, path: Optional[bytes]) -> None:
        return


def witness(kci: Client) -> object:
    return kci.upload(kci.key("a"), b"x", token=kci.secret("limited", "")).status


FAULT = Fault(
    "AU-06b",
    Server,
    witness,
    "a table of users that is read and not asked",
    blast=(
        "AU-06*",
        "AR-02h",
    ),
)
