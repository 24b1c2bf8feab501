"""The upload is stored before the body has ended."""

from __future__ import annotations

from conformance.kernelci.client import FORM_TYPE, Client, field, file, form
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Body


class Server(Reference):
    def epilogue(self, body: Body) -> None:
        return


def witness(kci: Client) -> object:
    body = form(field("path", kci.folder), file("b", b"x"))
    connection = kci.connection()
    sized = [kci.authorised(), FORM_TYPE, ("Content-Length", str(len(body) + 5))]
    connection.send(kci.head("POST", "/v1/file", sized) + body)
    connection.finish_sending()
    return connection.receive("POST").status


FAULT = Fault("UP-04j", Server, witness, "parsers that stop at the end boundary")
