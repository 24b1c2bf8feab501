"""A name in capitals is none."""

from __future__ import annotations

import re
from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def name(self, path: str) -> Optional[str]:
        return path[1:] if re.fullmatch("/[0-9a-f]{64}", path) else None


def witness(stor: Client) -> object:
    return stor.get(stor.sample().path.upper()).status


FAULT = Fault("SO-02e", Server, witness, "a pattern that was written for sha256sum", blast=("SO-01b",))
