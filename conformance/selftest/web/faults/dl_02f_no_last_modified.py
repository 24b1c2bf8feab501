"""A download has no Last-Modified."""

from __future__ import annotations

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def object_headers(self, key: str, stored: Stored) -> Headers:
        return [pair for pair in super().object_headers(key, stored) if pair[0] != "Last-Modified"]


def witness(web: Client) -> object:
    return web.get(web.sample().path).get("Last-Modified")


FAULT = Fault("DL-02f", Server, witness, "kernelci-storage 0.2.1, local driver", blast=("DL-*",))
