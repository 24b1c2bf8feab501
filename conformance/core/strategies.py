"""Hypothesis over the wire: cases that matter for any HTTP storage, and a budget of requests."""

from __future__ import annotations

import tempfile
import warnings
from typing import Callable, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import HypothesisWarning

from conformance.core.expect import Violation
from conformance.core.wire import WireError

Case = TypeVar("Case")

# Hypothesis keeps what it learns in the folder it runs in; a suite leaves nothing behind.
_HOME = tempfile.TemporaryDirectory(prefix="conformance-")
set_hypothesis_home_dir(_HOME.name)


class _BudgetSpent(BaseException):
    """Leaves Hypothesis at once; a BaseException, because it must not count as one more failure."""


def _with_case(error: Exception, case: object) -> Violation:
    if isinstance(error, Violation):
        return Violation(error.allowed, error.came, f"{error.context} with {case!r}".strip())
    return Violation("an answer", str(error), f"with {case!r}")


def explore(cases: st.SearchStrategy[Case], body: Callable[[Case], None], *, examples: int, with_seed: int) -> None:
    """Runs `body` on generated cases and raises the smallest failure found, within three requests an example."""
    budget = 3 * examples
    last: list[Violation] = []

    def spend(case: Case) -> None:
        nonlocal budget
        budget -= 1
        if budget < 0 and last:
            raise _BudgetSpent
        try:
            body(case)
        except (Violation, WireError) as error:
            last[:] = [_with_case(error, case)]
            raise

    limits = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    run: Callable[[], None] = limits(seed(with_seed)(given(cases)(spend)))
    failed = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)
        try:
            run()
        except (_BudgetSpent, Violation, WireError):
            failed = True
        except Exception:
            if not last:  # not of the server's making
                raise
            failed = True  # Hypothesis could not repeat it (Flaky): the failure stands all the same
    if failed:
        raise last[0]


# --------------------------------------------------------------------------------------------------------- ranges


def _sendable(text: str) -> bool:
    return text == text.strip() and bool(text) and all(ord(char) < 256 for char in text)


def range_headers(size: int) -> st.SearchStrategy[str]:
    """Range headers for an object of `size` bytes: right ones, edges, and what clients get wrong."""
    edges = sorted({0, 1, 2, max(0, size - 2), max(0, size - 1), size, size + 1, 2**31, 2**32, 2**63, 2**64, 10**30})
    number = st.one_of(st.sampled_from(edges), st.integers(0, max(1, size)))
    closed = st.builds("{}-{}".format, number, number)
    ordered = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    spec = st.one_of(ordered, ordered, closed, st.builds("{}-".format, number), st.builds("-{}".format, number))
    junk = st.sampled_from(["", "-", "a-b", "1-x", "--1", "1--2", "0x1-2", "+1-2", "1.5-2", "1 - 2", "٣-٤", "-1-2"])
    specs = st.lists(st.one_of(spec, spec, spec, spec, junk), min_size=1, max_size=4)
    joined = st.builds(lambda items, comma: comma.join(items), specs, st.sampled_from([",", ", ", ",,"]))
    unit = st.sampled_from(["bytes="] * 12 + ["items=", "bytes", "", "bytes ="])
    return st.builds("{}{}".format, unit, joined).filter(_sendable)


# ----------------------------------------------------------------------------------------------------- conditions


def conditions(etag: str, dates: dict[str, str]) -> st.SearchStrategy[dict[str, str]]:
    """Mixes of the four preconditions around an object with that ETag; `dates` has before, same and after."""
    opaque = etag.removeprefix("W/")
    near = opaque[:-1] + 'x"'
    tags = st.sampled_from([opaque, f"W/{opaque}", '"other"', 'W/"other"', near, '"a,b"', '""', opaque.upper()])
    listed = st.lists(tags, min_size=1, max_size=3).map(", ".join)
    tag_value = st.one_of(st.just("*"), listed, listed, listed)
    date_value = st.sampled_from([*dates.values(), "yesterday", "0", "Mon, 32 Jan 2024 00:00:00 GMT"])
    return st.fixed_dictionaries(
        {},
        optional={
            "if-match": tag_value,
            "if-none-match": tag_value,
            "if-modified-since": date_value,
            "if-unmodified-since": date_value,
        },
    )
