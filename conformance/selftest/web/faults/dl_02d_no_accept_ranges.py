"""A download does not say that ranges work."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def object_headers(self, key: str, stored: Stored) -> Headers:
        return [pair for pair in super().object_headers(key, stored) if pair[0] != "Accept-Ranges"]


def witness(web: Client) -> object:
    return web.get(web.sample().path).get("Accept-Ranges")


FAULT = Fault("DL-02d", Server, witness, "a header that was forgotten")
