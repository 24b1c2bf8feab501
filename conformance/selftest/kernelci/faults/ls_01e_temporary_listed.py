"""The temporary file of an upload is listed."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def begin(self, key: str) -> None:
        vars(self).setdefault("temporary", set()).add(key)

    def commit(self, key: str, data: bytes, kind: str, owner: str) -> None:
        vars(self).setdefault("temporary", set()).discard(key)
        super().commit(key, data, kind, owner)

    def listed_keys(self) -> list[str]:
        return super().listed_keys() + [f"{key}.part" for key in vars(self).get("temporary", ())]


def witness(kci: Client) -> object:
    with kci.holding(kci.key("a")):
        return [line for line in kci.listed() if line.startswith(kci.folder)]


FAULT = Fault(
    "LS-01e",
    Server,
    witness,
    "temporary files beside the objects",
    blast=(
        "UP-08b",
        "LS-*",
    ),
)
