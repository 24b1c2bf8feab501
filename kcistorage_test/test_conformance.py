"""The conformance suite proves itself: its self-test runs here, and its figures are held."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
MINUTES = 15  # three times what the self-test takes on two processors: other tests run beside it


def _selftest(folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of the self-test by protocol."""
    out = folder / "figures.json"
    words = [sys.executable, "-m", "conformance", "selftest", "--json", str(out)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60 * MINUTES, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text(encoding="utf-8"))["figures"]
    assert isinstance(figures, dict)
    return figures


LEAST = {  # what a change may not fall below: faults, MUST clauses that are judged, right servers
    "kernelci": (200, 150, 13),
    "stor": (135, 85, 7),
}


@pytest.mark.timeout(60 * MINUTES)
def test_every_proof_holds(tmp_path: Path) -> None:
    """Invariant: every fault is caught, every MUST has a fault, no right server is blamed, no null server passes."""
    found = _selftest(tmp_path)
    assert set(found) == set(LEAST)
    for protocol, (faults, musts, right) in LEAST.items():
        figures = found[protocol]
        assert figures["problems"] == 0
        assert figures["caught"] == figures["faults"] >= faults
        assert figures["musts with a fault of their own"] == figures["musts judged"] >= musts
        assert figures["null servers"] >= 12
        assert figures["passes for a null server"] == 0
        assert figures["right servers"] >= right
        assert figures["false reds"] == 0
        assert figures["headroom"] <= 0.5


@pytest.mark.parametrize(("protocol", "page"), [("kernelci", "PROTOCOL.md"), ("stor", "PROTOCOL-stor.md")])
def test_protocol_page_is_fresh(protocol: str, page: str) -> None:
    """The page is what the table of clauses says."""
    words = [sys.executable, "-m", "conformance", "protocol", "--protocol", protocol]
    made = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=60, check=True).stdout
    assert made.decode("utf-8") == (ROOT / "conformance" / page).read_text(encoding="utf-8")


def test_the_suite_imports_no_server() -> None:
    """Black-box: no file of the suite imports what it judges."""
    pattern = re.compile(
        r"^\s*(from|import) (kcistorage|kcistorage_parts|kcistorage_test|stor|artifactapi)\b", re.MULTILINE
    )
    files = list((ROOT / "conformance").rglob("*.py"))
    assert len(files) > 200
    assert [str(path) for path in files if pattern.search(path.read_text(encoding="utf-8"))] == []
