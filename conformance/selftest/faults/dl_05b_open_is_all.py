"""A range without an end is ignored."""

from __future__ import annotations

import re

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Answer, Headers, Reference, Stored


class Server(Reference):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        if re.fullmatch(r"bytes=[0-9]+-", header):
            return Answer(200, stored.data, headers)
        return super().partial(header, stored, headers)


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, Range="bytes=2-").status


FAULT = Fault("DL-05b", Server, witness, "a pattern that wants both ends", blast=("DL-05*",))
