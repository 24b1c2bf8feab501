"""A form without a file is answered 200."""

from __future__ import annotations

from conformance.kernelci.client import Client, field
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Form, Reference
from conformance.selftest.web.server import Answer


class Server(Reference):
    def check_form(self, form: Form) -> None:
        return

    def stored_answer(self, keys: list[str]) -> Answer:
        return super().stored_answer(keys) if keys else Answer(200)


def witness(kci: Client) -> object:
    return kci.post(field("path", kci.folder)).status


FAULT = Fault("UP-04g", Server, witness, "a loop over no files")
