"""A download may see the old object for a twentieth of a second after the overwrite."""

from __future__ import annotations

import time
from typing import Optional, cast

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Stored


class Server(Reference):
    def look_up(self, key: str) -> Optional[Stored]:
        seen = vars(self).setdefault("seen", {})
        known, until = seen.get(key, (None, 0.0))
        if known is None or time.monotonic() > until:
            known = super().look_up(key)
            seen[key] = (known, time.monotonic() + 0.05)
        return cast(Optional[Stored], known)


def witness(kci: Client) -> object:
    key = kci.stored(kci.key("a"), b"old")
    kci.download(key)
    kci.stored(key, b"new")
    return kci.download(key).body


FAULT = Fault("UP-08d", Server, witness, "a cache that is trusted for a moment", blast=("*",))
