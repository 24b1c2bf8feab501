"""Waiting: every time a check may take stands in one table, and what was really used is remembered.

A check never sleeps. It waits for an event with a ceiling (`eventually`), or watches that none comes (`throughout`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Callable, Optional, TypeVar

from conformance.core.expect import Violation

T = TypeVar("T")

CEILINGS = {
    "answer": 15.0,  # a small request, on a busy machine behind a slow disk
    "early": 5.0,  # a refusal that needs no body, a freed lock: at once, says the protocol
    "settle": 3.0,  # until a held upload shows
}
WINDOW = 0.25  # seconds in which something that must not happen is watched for
PAUSE = 0.01  # between two looks


@dataclass
class Patience:
    """The clock of one run: the ceilings times a factor. Safe to share between threads."""

    factor: float = 1.0
    used: dict[str, float] = field(default_factory=dict)  # greatest share of each ceiling that a success needed

    def ceiling(self, name: str) -> float:
        return CEILINGS[name] * self.factor

    def needed(self, name: str, seconds: float) -> None:
        share = seconds / self.ceiling(name)
        self.used[name] = max(self.used.get(name, 0.0), share)

    def eventually(self, name: str, look: Callable[[], Optional[T]], allowed: str) -> T:
        """The first thing `look` gives that is not None. Raises Violation when the ceiling is reached."""
        started = time.monotonic()
        while True:
            found = look()
            took = time.monotonic() - started
            if found is not None:
                self.needed(name, took)
                return found
            if took > self.ceiling(name):
                raise Violation(allowed, f"nothing of it within {self.ceiling(name):g} s")
            time.sleep(PAUSE)

    def throughout(self, look: Callable[[], None]) -> None:
        """Looks again and again for a window. `look` raises Violation when it sees what must not be."""
        until = time.monotonic() + WINDOW
        while time.monotonic() < until:
            look()
            time.sleep(PAUSE)
