"""Verdicts: how an outcome and a level become one word, and how many words become an exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Optional


class Level(Enum):
    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Verdict(Enum):
    PASS = "pass"
    FAIL = "fail"
    WARN = "warn"  # a SHOULD is not met
    INFO = "info"  # a MAY is not used, or the protocol is silent
    UNSUPPORTED = "unsupported"  # the server declares, or shows, that it does not offer this
    UNTESTABLE = "untestable"  # an input or a lever is missing, or a proxy hides the server
    DEPENDENCY = "dependency-failed"
    FLAKY = "flaky"  # failed, then passed: a retry never erases a failure
    ERROR = "suite-error"


RED = (Verdict.FAIL, Verdict.FLAKY)
SILENT = (Verdict.UNSUPPORTED, Verdict.UNTESTABLE, Verdict.DEPENDENCY)


class Exit(IntEnum):
    """The exit codes of the command line."""

    CONFORMANT = 0
    NOT_CONFORMANT = 1
    USAGE = 2
    UNREACHABLE = 3
    SUITE_ERROR = 4
    NOTHING_SELECTED = 5
    STALE_BASELINE = 6


class NotJudged(Exception):
    """Raised by a check that cannot come to a pass or a fail; the subclass is the verdict, the text the reason."""

    verdict = Verdict.UNTESTABLE


class Unsupported(NotJudged):
    verdict = Verdict.UNSUPPORTED


class Untestable(NotJudged):
    verdict = Verdict.UNTESTABLE


class DependencyFailed(NotJudged):
    """A step that only prepares the check did not work; another check judges that step."""

    verdict = Verdict.DEPENDENCY


class Silent(NotJudged):
    verdict = Verdict.INFO


@dataclass
class Failure:
    """What a person needs to understand a failure without running it again."""

    sent: str
    allowed: str
    came: str
    curl: str = ""
    transcript: list[str] = field(default_factory=list)


@dataclass
class Result:
    """The verdict on one check. `clause` is its clause; the level is looked up there."""

    check: str
    clause: str
    level: Level
    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0
    seed: int = 0
    failure: Optional[Failure] = None
    excused: bool = False

    @property
    def id(self) -> str:
        """What `replay` takes."""
        return f"{self.check}:{self.seed:x}"


def not_met(level: Level) -> Verdict:
    """The word for a clause of that level that is not met."""
    return {Level.MUST: Verdict.FAIL, Level.SHOULD: Verdict.WARN, Level.MAY: Verdict.INFO}[level]


def tally(results: Iterable[Result]) -> dict[Verdict, int]:
    counts = dict.fromkeys(Verdict, 0)
    for result in results:
        counts[result.verdict] += 1
    return counts


def exit_code(results: list[Result], *, died: bool, stale: list[str]) -> Exit:
    """The one word on a run. Never CONFORMANT when no MUST check came to a verdict."""
    if died:
        return Exit.UNREACHABLE
    if any(result.verdict is Verdict.ERROR for result in results):
        return Exit.SUITE_ERROR
    judged = [r for r in results if r.level is Level.MUST and r.verdict not in SILENT]
    if any(r.verdict in (*RED, Verdict.DEPENDENCY) and not r.excused for r in results):
        return Exit.NOT_CONFORMANT
    if stale:
        return Exit.STALE_BASELINE
    return Exit.CONFORMANT if judged else Exit.NOTHING_SELECTED
