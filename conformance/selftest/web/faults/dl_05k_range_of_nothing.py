"""A range of an empty object is 206 with `bytes 0--1/0`."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        if not stored.data and header.startswith("bytes="):
            return Answer(206, b"", [*headers, ("Content-Range", "bytes 0--1/0")])
        return super().partial(header, stored, headers)


def witness(web: Client) -> object:
    return web.get(web.stored_as("empty", b""), Range="bytes=0-").status


FAULT = Fault("DL-05k", Server, witness, "first and last of no bytes")
