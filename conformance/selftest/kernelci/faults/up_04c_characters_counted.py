"""The limit counts characters instead of bytes."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    def check_segment_length(self, segments: list[str]) -> None:
        if any(len(segment) > 255 for segment in segments):
            raise Refused(400, "A segment over 255 characters")


def witness(kci: Client) -> object:
    return kci.upload(kci.key("\u00fc" * 200), b"x").status


FAULT = Fault("UP-04c", Server, witness, "len() of a text")
