"""The path must come first."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Form, Part, Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    def take_part(self, form: Form, part: Part) -> None:
        if self.is_file(part.name) and form.path is None:
            raise Refused(400, "No path field in upload")
        super().take_part(form, part)


def witness(kci: Client) -> object:
    return kci.post(file("b", b"x"), field("path", kci.folder)).status


FAULT = Fault(
    "UP-02a",
    Server,
    witness,
    "a release of kernelci-storage",
    blast=(
        "UP-03a",
        "AU-06c",
        "UP-02b",
        "UP-08c",
    ),
)
