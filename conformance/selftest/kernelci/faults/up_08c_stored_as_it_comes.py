"""A file is stored before the form has ended."""

from __future__ import annotations

from conformance.kernelci.client import FORM_TYPE, Client, field, file, form
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Form, Part, Reference


class Server(Reference):
    def take_part(self, form: Form, part: Part) -> None:
        super().take_part(form, part)
        if form.path is not None and part.filename:
            self.commit(self.storage_key(form.path, part.filename), part.content, "text/plain", "")


def witness(kci: Client) -> object:
    body = form(field("path", kci.folder), file("b", b"x"))[:-4]
    kci.request("POST", "/v1/file", [kci.authorised(), FORM_TYPE], body)
    return kci.download(kci.key("b")).status


FAULT = Fault(
    "UP-08c",
    Server,
    witness,
    "a parser that writes each part where it belongs",
    blast=(
        "UP-04i",
        "UP-04j",
        "UP-08b",
    ),
)
