"""DELETE removes an object."""

from __future__ import annotations

from typing import Callable

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Answer, Request
from conformance.stor.client import Client


class Server(Reference):
    def object_methods(self) -> dict[str, Callable[[Request], Answer]]:
        return {**super().object_methods(), "DELETE": self.delete}

    def delete(self, request: Request) -> Answer:
        self.authenticate(request)
        self.clean(self.files(self.post_name(request)))
        return Answer(204)


def witness(stor: Client) -> object:
    path = stor.stored(stor.fresh("a"))
    stor.request("DELETE", path, [stor.authorised()])
    return stor.get(path).status


FAULT = Fault("SO-01g", Server, witness, "a REST framework with all the verbs")
