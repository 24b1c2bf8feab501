"""storage_files_cached is missing."""

from __future__ import annotations

from conformance.kernelci.client import Client
from conformance.selftest.fault import Fault
from conformance.selftest.kernelci.reference import Reference


class Server(Reference):
    def cache_metric(self) -> str:
        return ""


def witness(kci: Client) -> object:
    return kci.get("/metrics").text.count("storage_files_cached")


FAULT = Fault("MT-01c", Server, witness, "a server without a cache")
