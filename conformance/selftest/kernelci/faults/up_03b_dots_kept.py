"""A segment of one dot stays in the key."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def segments(self, text: str) -> list[str]:
        return [segment for segment in text.split("/") if segment]


def witness(kci: Client) -> object:
    kci.post(field("path", f"./{kci.folder}"), file("b", b"x"))
    return kci.download(kci.key("b")).status


FAULT = Fault(
    "UP-03b",
    Server,
    witness,
    "keys that are joined and not parsed",
    blast=(
        "UP-09g",
        "UP-04*",
        "AU-06c",
    ),
)
