"""A cache in front may keep the page in the place of the object."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Headers


class Server(Reference):
    def challenge_page_headers(self) -> Headers:
        return [("Cache-Control", "max-age=60"), ("Referrer-Policy", "no-referrer")]


def witness(kci: Client) -> object:
    return kci.get(kci.sample().path, User_Agent="challenged-browser").get("Cache-Control")


FAULT = Fault("GA-04b", Server, witness, "a page without headers of its own")
