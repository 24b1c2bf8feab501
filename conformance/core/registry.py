"""How a test says what it checks: `@clause("DL-05c", "range.suffix.clamped")`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Optional, TypeVar

Function = TypeVar("Function", bound=Callable[..., None])


@dataclass(frozen=True)
class Check:
    """What is known of a check before it runs. Its level stands in the table of clauses and nowhere else."""

    slug: str
    clause: str
    doc: str
    writes: bool = True  # the profile `readonly` leaves it out
    slow: bool = False  # over 5 s by nature; only in the profile `full`, and beside the others
    direct: bool = False  # a buffering proxy in front hides what it looks at
    alone: bool = False  # runs when all others have ended: it takes the server away from them
    needs: tuple[str, ...] = ()  # capabilities


_CHECKS: dict[str, Check] = {}


def clause(
    identifier: str,
    slug: str,
    *,
    writes: bool = True,
    slow: bool = False,
    direct: bool = False,
    alone: bool = False,
    needs: tuple[str, ...] = (),
) -> Callable[[Function], Function]:
    """Marks a test as the check `slug` of a clause."""

    def mark(function: Function) -> Function:
        doc = (function.__doc__ or "").strip()
        check = Check(slug, identifier, doc, writes, slow, direct, alone, needs)
        known = _CHECKS.get(slug)
        if known is not None and known != check:
            raise ValueError(f"two checks are called {slug}")
        _CHECKS[slug] = check
        vars(function)["conformance_check"] = check
        return function

    return mark


def check_of(function: Any) -> Optional[Check]:
    """The mark of a test function, if it has one."""
    found = getattr(function, "conformance_check", None)
    return found if isinstance(found, Check) else None
