"""A field of another name is refused."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Form, Part, Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    def take_part(self, form: Form, part: Part) -> None:
        if part.name != "path" and not self.is_file(part.name):
            raise Refused(400, "Unknown field")
        super().take_part(form, part)


def witness(kci: Client) -> object:
    return kci.post(field("path", kci.folder), field("x", "y"), file("a", b"x")).status


FAULT = Fault("UP-05b", Server, witness, "a schema")
