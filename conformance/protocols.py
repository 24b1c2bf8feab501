"""The protocols that the suite knows, by name."""

from __future__ import annotations

from pathlib import Path

from conformance import kernelci, stor
from conformance.core.plugin import Suite

USUAL = "kernelci"
SUITES: dict[str, Suite] = {suite.spec.protocol: suite for suite in (kernelci.SUITE, stor.SUITE)}


def page(protocol: str) -> Path:
    """Where the human form of the table stands."""
    return Path(__file__).with_name("PROTOCOL.md" if protocol == USUAL else f"PROTOCOL-{protocol}.md")
