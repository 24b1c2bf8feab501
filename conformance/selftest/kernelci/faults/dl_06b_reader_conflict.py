"""The download that waited in vain is answered 409."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    def await_upload(self, key: str) -> None:
        try:
            super().await_upload(key)
        except Refused as refused:
            raise Refused(409, refused.text) from None


def witness(kci: Client) -> object:
    with kci.holding(kci.key("a")):
        return kci.download(kci.key("a")).status


FAULT = Fault("DL-06b", Server, witness, "one error for both waits")
