"""Header names in lower case, as HTTP/2 gateways send them."""

from __future__ import annotations

from conformance.selftest.fault import Benign
from conformance.selftest.web.server import Headers, WebServer


class Server(WebServer):
    def present(self, headers: Headers) -> Headers:
        return [(name.lower(), value) for name, value in headers]


BENIGN = Benign(Server, "RFC 9110 5.1: names have no case")
