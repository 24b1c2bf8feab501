"""Proofs of the models: each is compared with a slow and obvious one, or with cases worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Optional

from hypothesis import strategies as st

from conformance.core import expect, linearize, lockmodel, oracle, strategies
from conformance.core.history import FOREVER, NOTHING, Operation
from conformance.core.lockmodel import Answered, Hold
from conformance.core.oracle import RangeAllowed, Span

# Worked out by hand from RFC 9110 14.1.2, for an object of 10 bytes.
RANGES: dict[str, RangeAllowed] = {
    "bytes=0-0": RangeAllowed(spans=(Span(0, 0),)),
    "bytes=0-9": RangeAllowed(spans=(Span(0, 9),)),
    "bytes=5-": RangeAllowed(spans=(Span(5, 9),)),
    "bytes=-3": RangeAllowed(spans=(Span(7, 9),)),
    "bytes=-30": RangeAllowed(spans=(Span(0, 9),)),
    "bytes=3-300": RangeAllowed(spans=(Span(3, 9),)),
    "bytes=10-": RangeAllowed(unsatisfiable=True),
    "bytes=-0": RangeAllowed(unsatisfiable=True),
    "bytes=5-2": RangeAllowed(whole=True, unsatisfiable=True),
    "bytes=a-b": RangeAllowed(whole=True),
    "bytes=": RangeAllowed(whole=True),
    "lines=0-1": RangeAllowed(whole=True),
    "bytes=0-1,2-3": RangeAllowed(whole=True, spans=(Span(0, 3),)),
    "bytes=0-1,4-5": RangeAllowed(whole=True, spans=(Span(0, 1), Span(4, 5))),
    "bytes=0-1,20-": RangeAllowed(whole=True, spans=(Span(0, 1),)),
}


def _fits(order: Sequence[Operation]) -> bool:
    value = NOTHING
    for place, operation in enumerate(order):
        if any(later.ended < operation.begun for later in order[place + 1 :]):
            return False
        if operation.write:
            value = operation.value
        elif operation.value != value:
            return False
    return True


def searched(operations: Sequence[Operation]) -> bool:
    """Linearizable, by trying every order; an unanswered write may also be left out."""
    unanswered = [one for one in operations if one.ended == FOREVER]
    certain = [one for one in operations if one.ended != FOREVER]
    choices = [certain + unanswered[:kept] for kept in range(len(unanswered) + 1)]
    return any(_fits(order) for chosen in choices for order in permutations(chosen))


@st.composite
def _histories(draw: st.DrawFn) -> list[Operation]:
    """Up to six operations on one key with times that overlap in every way."""
    writes = draw(st.integers(1, 3))
    values = [f"v{number}" for number in range(writes)]
    made: list[Operation] = []
    for number in range(writes + draw(st.integers(0, 3))):
        begun = draw(st.integers(0, 12))
        ended: float = begun + draw(st.integers(1, 8)) + 0.5
        write = number < writes
        if write and number == writes - 1 and draw(st.booleans()):
            ended = FOREVER
        value = values[number] if write else draw(st.sampled_from([NOTHING, *values]))
        made.append(Operation(number, "key", write, value, begun, ended))
    return made


def linearizability() -> Optional[str]:
    """The checker agrees with the search on a thousand small histories."""
    seen = {True: 0, False: 0}

    def agree(operations: list[Operation]) -> None:
        expected = searched(operations)
        seen[expected] += 1
        found = linearize.anomaly(operations)
        expect.that((found is None) == expected, f"linearizable: {expected}", found)

    try:
        strategies.explore(_histories(), agree, examples=1000, with_seed=1)
    except expect.Violation as error:
        return f"the linearizability checker disagrees with the search: {error}"
    return None if min(seen.values()) > 100 else f"the histories are too much alike: {seen}"


def locks() -> Optional[str]:
    """A success inside a hold of the same key is a violation, and nothing else is."""
    hold = Hold("a", 1.0, 5.0)
    inside = Answered("a", True, 2.0, 3.0, True)
    others = (
        Answered("a", True, 2.0, 3.0, False),
        Answered("b", True, 2.0, 3.0, True),
        Answered("a", True, 0.5, 3.0, True),
        Answered("a", True, 2.0, 6.0, True),
    )
    if len(lockmodel.violations([hold], [inside])) != 1:
        return "the lock model misses an upload inside a hold"
    wrong = [one for one in others if lockmodel.violations([hold], [one])]
    return f"the lock model blames {wrong}" if wrong else None


def ranges() -> Optional[str]:
    """The oracle of ranges on cases that were worked out by hand."""
    for header, allowed in RANGES.items():
        if oracle.range(10, header) != allowed:
            return f"the oracle of ranges: {header} gives {oracle.range(10, header)}, not {allowed}"
    return None


def dates() -> Optional[str]:
    """The example of RFC 9110 5.6.7 in its three forms."""
    forms = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994")
    read = {oracle.http_date(form) for form in forms}
    return None if len(read) == 1 and None not in read else f"the oracle of dates: {read}"


MODELS = {"linearizability": linearizability, "locks": locks, "ranges": ranges, "dates": dates}
