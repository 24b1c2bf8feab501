"""A sidecar can be downloaded, with the name of the uploader."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Optional

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Stored


class Server(Reference):
    def private(self, key: str) -> bool:
        return False

    def look_up(self, key: str) -> Optional[Stored]:
        for other, stored in list(self.objects.items()):
            if key == f".metadata/{hashlib.sha512(other.encode()).hexdigest()}.headers":
                return replace(stored, data=f"tag-owner:{stored.owner}\n".encode())
        return super().look_up(key)


def witness(kci: Client) -> object:
    key = kci.stored(kci.key("a"), b"x")
    return kci.get(f"/.metadata/{hashlib.sha512(key.encode()).hexdigest()}.headers").status


FAULT = Fault("DL-03c", Server, witness, "sidecars in the tree of the objects")
