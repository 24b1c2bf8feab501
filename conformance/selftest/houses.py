"""The protocols of the self-test, by name."""

from __future__ import annotations

from conformance.selftest import kernelci, stor
from conformance.selftest.house import House

HOUSES: dict[str, House] = {house.name: house for house in (kernelci.HOUSE, stor.HOUSE)}
