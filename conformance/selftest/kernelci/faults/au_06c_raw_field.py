"""The permission is judged on the field `path`: an empty one with a filename of folders is refused, or worse."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def permit(self, owner: str, key: str, path: Optional[bytes]) -> None:
        super().permit(owner, (path or b"").decode("utf-8", "replace").lstrip("/"), path)


def witness(kci: Client) -> object:
    return kci.post(file("allowed/w/b", b"x"), token=kci.secret("limited", "")).status


FAULT = Fault("AU-06c", Server, witness, "kernelci-storage, which asks for the form field only", blast=("AU-06*",))
