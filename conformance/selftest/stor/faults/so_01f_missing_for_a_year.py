"""A 404 may be kept for a year."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.stor.reference import Reference
from conformance.selftest.web.server import Headers
from conformance.stor.client import Client


class Server(Reference):
    def present(self, headers: Headers) -> Headers:
        return [pair for pair in headers if pair[0] != "Cache-Control"] + self.cache_control()


def witness(stor: Client) -> object:
    return stor.get(stor.missing()).get("Cache-Control")


FAULT = Fault("SO-01f", Server, witness, "nginx: add_header with `always`")
