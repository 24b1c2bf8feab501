"""A line end behind the name is read over."""

from __future__ import annotations

import re
from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def name(self, path: str) -> Optional[str]:
        text = self.decoded(path).decode("latin-1")
        return text[1:65].lower() if re.match("/[0-9A-Fa-f]{64}$", text) else None


def witness(stor: Client) -> object:
    return stor.get(stor.sample().path + "%0a").status


FAULT = Fault("SO-02c", Server, witness, "Perl and Python, where $ matches before a line end", blast=("SO-02d",))
