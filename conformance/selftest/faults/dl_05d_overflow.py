"""An end of more than 64 bits is taken for no range."""

from __future__ import annotations

import re

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Headers, Reference, Stored


class Server(Reference):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        if any(int(number) >= 2**64 for number in re.findall(r"[0-9]+", header)):
            return Answer(200, stored.data, headers)
        return super().partial(header, stored, headers)


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, Range=f"bytes=0-{2**65}").status


FAULT = Fault("DL-05d", Server, witness, "a number of 64 bits", blast=("DL-05*",))
