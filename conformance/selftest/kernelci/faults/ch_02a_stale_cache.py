"""What was downloaded once is served for ever."""

from __future__ import annotations

from typing import Optional, cast

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Stored


class Server(Reference):
    def look_up(self, key: str) -> Optional[Stored]:
        cache = vars(self).setdefault("cache", {})
        if key not in cache:
            found = super().look_up(key)
            if found is None:
                return None
            cache[key] = found
        return cast(Stored, cache[key])


def witness(kci: Client) -> object:
    key = kci.stored(kci.key("a"), b"old")
    kci.download(key)
    kci.stored(key, b"new")
    return kci.download(key).body


FAULT = Fault("CH-02a", Server, witness, "kernelci-storage 0.2.1", blast=("*",))
