"""How a test says what it checks: `@clause("DL-05c", "range.suffix.clamped")`.

A check that several protocols share says only its name, `@shared("range.closed")`: it belongs to a protocol when a
clause in the table of that protocol names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Optional, TypeVar

Function = TypeVar("Function", bound=Callable[..., None])


@dataclass(frozen=True)
class Check:
    """What is known of a check before it runs. Its level stands in the table of clauses and nowhere else."""

    slug: str
    clause: str  # "" for a shared one, until a protocol takes it
    doc: str
    writes: bool = True  # the profile `readonly` leaves it out
    slow: bool = False  # over 5 s by nature; only in the profile `full`, and beside the others
    direct: bool = False  # a buffering proxy in front hides what it looks at
    alone: bool = False  # runs when all others have ended: it takes the server away from them
    needs: tuple[str, ...] = ()  # capabilities


_CHECKS: dict[tuple[str, str], Check] = {}  # by folder and slug


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
        key = (function.__module__.rpartition(".")[0], slug)
        if _CHECKS.setdefault(key, check) != check:
            raise ValueError(f"two checks are called {slug}")
        vars(function)["conformance_check"] = check
        return function

    return mark


def shared(slug: str, *, writes: bool = True, direct: bool = False) -> Callable[[Function], Function]:
    """Marks a test as a check of every protocol whose table names it."""
    return clause("", slug, writes=writes, direct=direct)


def check_of(function: Any) -> Optional[Check]:
    """The mark of a test function, if it has one."""
    found = getattr(function, "conformance_check", None)
    return found if isinstance(found, Check) else None
