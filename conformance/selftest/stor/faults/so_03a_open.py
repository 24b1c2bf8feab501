"""Everybody may write."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Request
from conformance.stor.client import Client, path_of


class Server(Reference):
    def authenticate(self, request: Request) -> None:
        return


def witness(stor: Client) -> object:
    data = stor.fresh("a")
    return stor.request("POST", path_of(data), [], data).status


FAULT = Fault(
    "SO-03a", Server, witness, "a configuration that names no user, taken for one that names all", blast=("*",)
)
