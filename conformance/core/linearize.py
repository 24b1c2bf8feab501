"""Is a history of whole-object reads and writes linearizable?

A register whose writes carry unique values can be decided in O(n log n) (Gibbons and Korach, "Testing shared
memories", 1997): all operations on one value form a cluster, each cluster spans a zone, and the history is
linearizable exactly when no two forward zones overlap and no backward zone lies inside a forward one.
The self-test compares it with a search over all orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from conformance.core.history import FOREVER, NOTHING, History, Operation


@dataclass(frozen=True)
class Zone:
    """From the earliest end to the latest begin of the operations on one value.

    Forward (low < high): the value surely was the current one all that time. Backward: some moment in between.
    """

    value: str
    low: float
    high: float

    @property
    def forward(self) -> bool:
        return self.low < self.high


def _conflict(zones: list[Zone]) -> Optional[str]:
    forward = sorted((zone for zone in zones if zone.forward), key=lambda zone: zone.low)
    for one, other in zip(forward, forward[1:]):
        if other.low < one.high:
            return f"{one.value} and {other.value} were each read before and after the other"
    for zone in zones:
        if zone.forward:
            continue
        around = next((f for f in forward if f.low < zone.high and zone.low < f.high), None)
        if around is not None:
            return f"{around.value} was seen before and after {zone.value}, which was written in between"
    return None


def anomaly(operations: Sequence[Operation]) -> Optional[str]:
    """Why the operations on one key fit no order, None when they do."""
    clusters: dict[str, list[Operation]] = {NOTHING: [Operation(-1, "", True, NOTHING, -FOREVER, -FOREVER)]}
    for operation in sorted(operations, key=lambda one: not one.write):
        if operation.write and operation.value in clusters:
            raise ValueError(f"two writes of one value: {operation.value}")
        if not operation.write and operation.value not in clusters:
            return f"{operation.value} was read and never written"
        clusters.setdefault(operation.value, []).append(operation)
    zones: list[Zone] = []
    for value, members in clusters.items():
        write, reads = members[0], members[1:]
        if write.ended == FOREVER and not reads:
            continue  # an unanswered write that nobody saw may never have been
        early = next((read for read in reads if read.ended < write.begun), None)
        if early is not None:
            return f"{value} was read before its write began"
        zones.append(Zone(value, min(m.ended for m in members), max(m.begun for m in members)))
    return _conflict(zones)


def anomalies(history: History) -> list[str]:
    """One line for each key whose operations fit no order."""
    found = ((key, anomaly(operations)) for key, operations in history.by_key().items())
    return [f"{key}: {why}" for key, why in found if why is not None]
