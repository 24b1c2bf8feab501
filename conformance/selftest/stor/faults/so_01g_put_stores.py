"""PUT stores without credentials."""

from __future__ import annotations

from typing import Callable

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client, path_of


class Server(Reference):
    def object_methods(self) -> dict[str, Callable[[Request], Answer]]:
        return {**super().object_methods(), "PUT": self.upload}

    def authenticate(self, request: Request) -> None:
        if request.method != "PUT":
            super().authenticate(request)


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    return stor.request("PUT", path_of(data), [], data).status


FAULT = Fault("SO-01g", Server, witness, "WebDAV left on beside the route")
