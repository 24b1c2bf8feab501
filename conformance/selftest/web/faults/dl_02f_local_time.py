"""Last-Modified is no IMF-fixdate."""

from __future__ import annotations

import time

from conformance.selftest.fault import Fault
from conformance.selftest.web.server import Headers, Stored, WebServer
from conformance.web.client import Client


class Server(WebServer):
    def object_headers(self, key: str, stored: Stored) -> Headers:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stored.modified))
        return [(n, when if n == "Last-Modified" else v) for n, v in super().object_headers(key, stored)]


def witness(web: Client) -> object:
    return "GMT" in str(web.get(web.sample().path).get("Last-Modified"))


FAULT = Fault("DL-02f", Server, witness, "strftime of the local time", blast=("DL-*",))
