"""A name is matched at its beginning, and what follows is read over."""

from __future__ import annotations

import re
from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def name(self, path: str) -> Optional[str]:
        match = re.match("/([0-9A-Fa-f]{64})", path)
        return match[1].lower() if match else None


def witness(stor: Client) -> object:
    return stor.get(stor.sample().path + "0").status


FAULT = Fault("SO-02c", Server, witness, "re.match, which is no fullmatch", blast=("*",))
