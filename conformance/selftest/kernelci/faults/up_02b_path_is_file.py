"""A path part with a filename is taken for a file."""

from __future__ import annotations

from conformance.kernelci import client
from conformance.kernelci.client import Client, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Form, Part, Reference


class Server(Reference):
    def take_part(self, form: Form, part: Part) -> None:
        if part.name == "path" and part.filename is not None:
            part = part._replace(name="file0")
        super().take_part(form, part)


def witness(kci: Client) -> object:
    kci.post(client.Part("path", kci.folder.encode(), b"path"), file("b", b"x"))
    return kci.download(kci.key("b")).status


FAULT = Fault("UP-02b", Server, witness, "a release of kernelci-storage")
