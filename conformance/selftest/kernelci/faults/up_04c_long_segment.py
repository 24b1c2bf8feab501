"""A segment of any length is accepted."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def check_segment_length(self, segments: list[str]) -> None:
        return


def witness(kci: Client) -> object:
    return kci.upload(kci.key("s" * 300), b"x").status


FAULT = Fault("UP-04c", Server, witness, "a cloud, which has no such limit")
