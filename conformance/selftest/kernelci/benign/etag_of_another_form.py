"""An ETag with characters that careless parsers split at."""

from __future__ import annotations

from conformance.selftest.fault import Benign
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def etag(self, key: str, data: bytes, version: int) -> str:
        return f'"v{version},{len(data)};=W/"'.replace('W/"', 'W/x"')


BENIGN = Benign(Server, "RFC 9110 8.8.3: an opaque tag may hold commas")
