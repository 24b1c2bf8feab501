"""200 is sent for bytes that are only in memory."""

from __future__ import annotations

import subprocess

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference
from conformance.selftest.web.server import Stored


class Server(Reference):
    def record(self, key: str, version: Stored) -> None:
        return


def witness(kci: Client) -> object:
    key = kci.stored(kci.key("a"), b"x")
    subprocess.run(kci.run.options.levers["restart"], shell=True, check=True)
    return kci.download(key).status


FAULT = Fault("UP-08e", Server, witness, "kernelci-storage 0.2.1, which does not wait for the disk", restarts=True)
