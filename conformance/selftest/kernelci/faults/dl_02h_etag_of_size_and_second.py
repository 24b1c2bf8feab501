"""Two versions of one length in one second have one ETag."""

from __future__ import annotations

import time

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def etag(self, key: str, data: bytes, version: int) -> str:
        return f'"{len(data):x}-{int(time.time()) // 60:x}"'


def witness(kci: Client) -> object:
    key = kci.stored(kci.key("a"), b"old")
    first = kci.download(key).get("ETag")
    kci.stored(key, b"new")
    return first == kci.download(key).get("ETag")


FAULT = Fault("DL-02h", Server, witness, "nginx's form of ETag, on a server that overwrites")
