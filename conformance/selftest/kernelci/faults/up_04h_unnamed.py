"""A file without a name is given one."""

from __future__ import annotations

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Form, Part, Reference


class Server(Reference):
    def take_part(self, form: Form, part: Part) -> None:
        super().take_part(form, part if part.filename else part._replace(filename=b"unnamed"))


def witness(kci: Client) -> object:
    return kci.post(field("path", kci.folder), file("", b"x")).status


FAULT = Fault("UP-04h", Server, witness, "a default name")
