"""Credentials that are no base64 are an error of the server."""

from __future__ import annotations

import base64
from typing import Optional

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Refused, Request
from conformance.stor.client import Client, path_of


class Server(Reference):
    def credentials(self, request: Request) -> Optional[bytes]:
        try:
            coded = request.headers.get("authorization", "Basic Og==").partition(" ")[2]
            return base64.b64decode(coded, validate=True).decode().encode()
        except ValueError:
            raise Refused(500, "Internal Server Error") from None


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    return stor.request("POST", path_of(data), [("Authorization", "Basic !!!!")], data).status


FAULT = Fault("SO-03b", Server, witness, "decode() outside of the try", blast=("RB-11",))
