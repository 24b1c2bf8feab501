"""Blanks and line ends at the end of a file are lost."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Form, Part, Reference


class Server(Reference):
    def take_part(self, form: Form, part: Part) -> None:
        super().take_part(form, part._replace(content=part.content.rstrip()))


def witness(kci: Client) -> object:
    kci.upload(kci.key("a"), b"x\r\n")
    return kci.download(kci.key("a")).body


FAULT = Fault("UP-07e", Server, witness, "strip() on a part")
