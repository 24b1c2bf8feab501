"""Many more headers, some empty, some with odd values, one of them twice."""

from __future__ import annotations

from conformance.selftest.fault import Benign
from conformance.selftest.web.server import Headers, WebServer


class Server(WebServer):
    def present(self, headers: Headers) -> Headers:
        more = [
            ("X-Request-Id", "7f:3"),
            ("X-Empty", ""),
            ("Vary", "Accept"),
            ("Vary", "Origin"),
            ("X-Utf", "\xc3\xbc"),
        ]
        return [("Strict-Transport-Security", "max-age=1"), *headers, *more]


BENIGN = Benign(Server, "RFC 9110 5.1: unknown fields are to be ignored")
