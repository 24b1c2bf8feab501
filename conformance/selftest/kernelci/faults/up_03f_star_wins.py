"""The parameter filename* is read."""

from __future__ import annotations

import re
from typing import Optional

from conformance.kernelci.client import Client, Part, field
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def part_filename(self, parameters: bytes) -> Optional[bytes]:
        star = re.search(rb"filename\*=UTF-8''([^;\s]+)", parameters)
        return star[1] if star else super().part_filename(parameters)


def witness(kci: Client) -> object:
    kci.post(field("path", kci.folder), Part("file0", b"x", b"plain", b"; filename*=UTF-8''star"))
    return kci.download(kci.key("plain")).status


FAULT = Fault("UP-03f", Server, witness, "parsers of mail headers")
