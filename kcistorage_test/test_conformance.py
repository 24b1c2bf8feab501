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


def _selftest(folder: Path, *only: str) -> dict[str, Any]:
    """The figures of a self-test, or of the proofs named."""
    out = folder / "figures.json"
    words = [sys.executable, "-m", "conformance", "selftest", "--json", str(out)]
    words += [word for name in only for word in ("--only", name)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60 * MINUTES, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text(encoding="utf-8"))["figures"]
    assert isinstance(figures, dict)
    return figures


@pytest.mark.timeout(60 * MINUTES)
def test_every_proof_holds(tmp_path: Path) -> None:
    """Invariant: every fault is caught, every MUST has a fault, no right server is blamed, no null server passes."""
    figures = _selftest(tmp_path)
    assert figures["problems"] == 0
    assert figures["caught"] == figures["faults"] >= 200
    assert figures["musts with a fault of their own"] == figures["musts judged"] >= 150
    assert figures["null servers"] >= 11
    assert figures["passes for a null server"] == 0
    assert figures["right servers"] >= 13
    assert figures["false reds"] == 0
    assert figures["headroom"] <= 0.5


def test_protocol_page_is_fresh() -> None:
    """PROTOCOL.md is what the table of clauses says."""
    words = [sys.executable, "-m", "conformance", "protocol"]
    made = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=60, check=True).stdout
    assert made.decode("utf-8") == (ROOT / "conformance/PROTOCOL.md").read_text(encoding="utf-8")


def test_the_suite_imports_no_server() -> None:
    """Black-box: no file of the suite imports what it judges."""
    pattern = re.compile(
        r"^\s*(from|import) (kcistorage|kcistorage_parts|kcistorage_test|stor|artifactapi)\b", re.MULTILINE
    )
    files = list((ROOT / "conformance").rglob("*.py"))
    assert len(files) > 200
    assert [str(path) for path in files if pattern.search(path.read_text(encoding="utf-8"))] == []
