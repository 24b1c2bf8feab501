"""A weak tag counts in If-Range."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.reference import Reference, Request, Stored


class Server(Reference):
    def if_range(self, request: Request, stored: Stored) -> bool:
        value = request.headers.get("if-range")
        return value is None or value.replace("W/", "") == stored.etag


def witness(kci: Client) -> object:
    sample = kci.sample()
    return kci.get(sample.path, Range="bytes=2-5", If_Range=f"W/{sample.etag}").status


FAULT = Fault("DL-05i", Server, witness, "one comparison for all")
