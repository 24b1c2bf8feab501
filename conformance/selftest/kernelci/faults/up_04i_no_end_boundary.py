"""A form without its end is taken as whole."""

from __future__ import annotations

from conformance.kernelci.client import FORM_TYPE, Client, field, file, form
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Body, Refused


class Server(Reference):
    def _fill(self, body: Body, buffer: bytearray, mark: bytes) -> None:
        try:
            super()._fill(body, buffer, mark)
        except Refused:
            buffer += mark + b"--\r\n"


def witness(kci: Client) -> object:
    body = form(field("path", kci.folder), file("b", b"x"))[:-50]
    return kci.request("POST", "/v1/file", [kci.authorised(), FORM_TYPE], body).status


FAULT = Fault("UP-04i", Server, witness, "lenient multipart parsers", blast=("UP-08c",))
