"""Several ranges are always answered with the whole."""

from __future__ import annotations

from conformance.selftest.fault import Benign
from conformance.selftest.web.server import Answer, Headers, Stored, WebServer


class Server(WebServer):
    def partial(self, header: str, stored: Stored, headers: Headers) -> Answer:
        answer = super().partial(header, stored, headers)
        return answer if "," not in header else Answer(200, stored.data, headers)


BENIGN = Benign(Server, "DL-5 allows a stated limit, and one is such a limit")
