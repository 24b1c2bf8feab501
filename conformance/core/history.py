"""Recorded histories: who asked for what, when it was asked, when it was answered, and what came."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Optional

NOTHING = "nothing"  # the value of a key before its first write
FOREVER = float("inf")


@dataclass(frozen=True)
class Operation:
    """A read that gave `value`, or a write of it. Values of writes are unique; times are seconds of one clock.

    `ended` is FOREVER for a write whose answer never came: it may take effect at any later time, or never.
    """

    client: int
    key: str
    write: bool
    value: str
    begun: float
    ended: float


@dataclass
class History:
    """Operations of one run. Safe to add to from several threads."""

    operations: list[Operation] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def now() -> float:
        return time.monotonic()

    def add(self, client: int, key: str, write: bool, value: str, begun: float, ended: Optional[float] = None) -> None:
        done = self.now() if ended is None else ended
        with self._lock:
            self.operations.append(Operation(client, key, write, value, begun, done))

    def by_key(self) -> dict[str, list[Operation]]:
        keys: dict[str, list[Operation]] = {}
        for operation in self.operations:
            keys.setdefault(operation.key, []).append(operation)
        return keys
