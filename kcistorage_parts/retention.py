"""When the objects that are past their time are deleted, and when none is (UP-12).

Which ones are, the driver says: their content is older than the value of their tag allows. That rests on the clock, and
a host that starts with its clock years ahead, until somebody tells it the time, must not lose its objects. So nothing
is deleted before the clock has run as evenly as the monotonic one from one pass of the housekeeping to the next, which
is some minutes. A clock that stays wrong for longer cannot be told from an object that stayed longer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Callable, Optional, Protocol, TypeVar

SWEEP_SECONDS = 3_600.0  # from one look at all objects to the next: they are kept for days
SET_SECONDS = 60.0  # by which a clock has to go wrong between two passes to have been set; drifting makes far less


class PastDue(Protocol):
    """What is asked of an object that is past its time; local.Expired says more."""

    @property
    def key(self) -> str: ...
    @property
    def etag(self) -> str: ...


Past = TypeVar("Past", bound=PastDue)


class Clock:
    """The host's time, as far as it can be trusted. One thread asks, every few minutes."""

    def __init__(self, wall: Callable[[], float] = time.time, even: Callable[[], float] = time.monotonic) -> None:
        self._wall, self.even = wall, even
        self._ahead: Optional[float] = None  # of the even one, when it was asked last

    def ask(self) -> Optional[float]:
        """Seconds since the epoch; None the first time, and when somebody set the clock since the last one."""
        now, before = self._wall(), self._ahead
        self._ahead = now - self.even()
        return now if before is not None and abs(self._ahead - before) < SET_SECONDS else None


class Retention:
    """The passes over one storage. One thread calls.

    `delete` takes key and ETag, and says whether it deleted that version: false where there is another one by now, or
    somebody is busy with it. What it raises of OSError keeps that one object, until the next sweep.
    """

    def __init__(self, delete: Callable[[str, str], bool], clock: Optional[Clock] = None) -> None:
        self._delete, self._clock = delete, clock or Clock()
        self._swept = -math.inf  # when

    def sweep(self, expired: Callable[[float], Iterable[Past]]) -> Iterator[tuple[Past, Optional[OSError]]]:
        """For each pass of the housekeeping: once an hour deletes what is `expired` at a time; yields each object that
        was, with the error if it could not be deleted."""
        now = self._clock.ask()
        if now is None or self._clock.even() - self._swept < SWEEP_SECONDS:
            return
        self._swept = self._clock.even()
        for past in expired(now):
            try:
                if self._delete(past.key, past.etag):
                    yield past, None
            except OSError as error:
                yield past, error
