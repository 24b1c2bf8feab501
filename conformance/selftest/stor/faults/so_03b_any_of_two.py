"""Of two headers the right one counts."""

from __future__ import annotations

from typing import Optional

from conformance.selftest.fault import Fault, with_header
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Request
from conformance.stor.client import Client, path_of


class Server(Reference):
    def credentials(self, request: Request) -> Optional[bytes]:
        last = request.headers.get("authorization", "").rpartition(", ")[2]
        return super().credentials(with_header(request, "authorization", last))


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    two = [stor.authorised("wrong:wrong"), stor.authorised()]
    return stor.request("POST", path_of(data), two, data).status


FAULT = Fault("SO-03b", Server, witness, "the last header wins")
