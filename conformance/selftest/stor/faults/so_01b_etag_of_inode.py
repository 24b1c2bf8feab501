"""The ETag is made of size and time, and differs from storage to storage."""

from __future__ import annotations

import random

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.stor.client import Client


class Server(Reference):
    def etag(self, name: str) -> str:
        return f'"{random.randrange(2):x}-{name[:8]}"'


def witness(stor: Client) -> object:
    return stor.sample().etag


FAULT = Fault("SO-01b", Server, witness, "nginx and Apache in front of two disks", blast=("*",))
