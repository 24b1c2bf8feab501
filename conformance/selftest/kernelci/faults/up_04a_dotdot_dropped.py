"""A .. segment is silently left out."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def segments(self, text: str) -> list[str]:
        return [segment for segment in super().segments(text) if segment != ".."]


def witness(kci: Client) -> object:
    return kci.post(field("path", f"{kci.folder}/../x"), file("b", b"x")).status


FAULT = Fault(
    "UP-04a",
    Server,
    witness,
    "a sanitiser instead of a refusal",
    blast=(
        "UP-08c",
        "AU-06c",
    ),
)
