"""POST /upload is not known."""

from __future__ import annotations

from typing import Callable

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Answer, Request


class Server(Reference):
    def routes(self) -> dict[str, dict[str, Callable[[Request], Answer]]]:
        return {path: methods for path, methods in super().routes().items() if path != "/upload"}


def witness(kci: Client) -> object:
    return kci.post(field("path", kci.folder), file("b", b"x"), route="/upload").status


FAULT = Fault("UP-01a", Server, witness, "a server that only knows the new route", blast=("*",))
