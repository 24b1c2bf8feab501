"""The interval model of upload locks: what a recorded hold forbids and demands.

A hold is an interval in which one client surely holds a key: its body is half sent and its gate still shut.
Linearizability cannot see a missing lock (whole objects in some order are still an order), and this model cannot
see a stale read: a suite needs both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Hold:
    """The key was surely held from `begun` (first shown) to `ended` (gate about to open), in seconds of one clock."""

    key: str
    begun: float
    ended: float


@dataclass(frozen=True)
class Answered:
    """An upload (`write`) or download that was asked and answered inside the time of the record."""

    key: str
    write: bool
    begun: float
    ended: float
    success: bool


def violations(holds: Sequence[Hold], answers: Sequence[Answered]) -> list[str]:
    """What the answers break: a success inside a hold of the same key."""
    found: list[str] = []
    for answer in answers:
        for hold in holds:
            inside = hold.begun <= answer.begun and answer.ended <= hold.ended
            if inside and answer.success and answer.key == hold.key:
                kind = "upload" if answer.write else "download"
                found.append(f"a second {kind} of {answer.key} succeeded while an upload of it was under way")
    return found
