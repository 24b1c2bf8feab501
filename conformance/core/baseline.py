"""The baseline: failures that are known and excused, one a line, and red again as soon as they are not needed."""

from __future__ import annotations

from pathlib import Path

from conformance.core.verdict import RED, Result, Verdict


def read(path: Path) -> dict[str, str]:
    """Slug -> reason. A line is `slug  # reason`; the reason is not optional. Raises ValueError."""
    excused: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        slug, _, reason = (piece.strip() for piece in line.partition("#"))
        if slug and not reason:
            raise ValueError(f"{path}:{number}: {slug} is excused without a reason")
        if slug:
            excused[slug] = reason
    return excused


def apply(excused: dict[str, str], results: list[Result]) -> list[str]:
    """Marks the excused failures, and gives the entries that are stale: their check passes, or is no check."""
    known = {result.check: result for result in results}
    for slug, reason in excused.items():
        result = known.get(slug)
        if result is not None and result.verdict in (*RED, Verdict.WARN, Verdict.DEPENDENCY):
            result.excused = True
            result.reason = f"excused ({reason}): {result.reason}"
    return [slug for slug in excused if slug in known and known[slug].verdict in (Verdict.PASS, Verdict.INFO)]
