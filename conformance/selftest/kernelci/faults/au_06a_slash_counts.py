"""A leading / in the path is held against a user with prefixes."""

from __future__ import annotations

from typing import Optional

from conformance.kernelci.client import Client, field, file
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Refused


class Server(Reference):
    def permit(self, owner: str, key: str, path: Optional[bytes]) -> None:
        if owner in self.settings.users and (path or b"").startswith(b"/"):
            raise Refused(403, self.forbidden_text(owner, key))
        super().permit(owner, key, path)


def witness(kci: Client) -> object:
    token = kci.secret("limited", "")
    return kci.post(field("path", "/allowed/w"), file("a", b"x"), token=token).status


FAULT = Fault("AU-06a", Server, witness, "a prefix compared with the raw form field")
