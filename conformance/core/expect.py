"""How a check says what it allows. Each helper raises Violation with what is allowed and what came."""

from __future__ import annotations

from typing import Optional, TypeVar

from conformance.core.wire import Malformed, Response

T = TypeVar("T")


class Violation(AssertionError):
    """The server did something the clause does not allow."""

    def __init__(self, allowed: str, came: str, context: str = "") -> None:
        super().__init__(f"{context + ': ' if context else ''}allowed {allowed}; came {came}")
        self.allowed = allowed
        self.came = came
        self.context = context

    def __reduce__(self) -> tuple[type[Violation], tuple[str, str, str]]:
        """Travels between processes: the arguments of the base class are others than those of this one."""
        return type(self), (self.allowed, self.came, self.context)


def describe(response: Response) -> str:
    """One line on an answer: status and the start of its text."""
    text = response.body[:1000].decode("utf-8", "backslashreplace").strip().split("\n")[0][:120]
    return f"{response.status}" + (f" {text!r}" if text else " with no content")


def that(condition: bool, allowed: str, came: object, context: str = "") -> None:
    if not condition:
        raise Violation(allowed, str(came), context)


def status(response: Response, *allowed: int, context: str = "") -> Response:
    """The answer has one of the statuses; gives it back, so that checks read as a conversation."""
    if response.status not in allowed:
        raise Violation(" or ".join(map(str, allowed)), describe(response), context)
    return response


def _short(value: object) -> str:
    shown = repr(value)
    if len(shown) <= 160:
        return shown
    size = f" ({len(value)} bytes)" if isinstance(value, (bytes, str)) else ""
    return shown[:150] + "…" + size


def equal(came: T, allowed: T, context: str) -> T:
    that(came == allowed, _short(allowed), _short(came), context)
    return came


def header(response: Response, name: str, context: str = "") -> str:
    """The value of a header that must be there exactly once."""
    try:
        value = response.get(name)
    except Malformed as error:
        raise Violation(f"one {name}", str(error), context) from None
    if value is None:
        raise Violation(f"a header {name}", "none", context)
    return value


def no_header(response: Response, name: str, context: str = "") -> None:
    that(not response.all(name), f"no header {name}", response.all(name), context)


def text(response: Response, allowed: str, context: str = "") -> None:
    """The body is that text; one line end after it is not judged."""
    equal(response.text.rstrip("\r\n"), allowed, context or "the body")


def difference(allowed: bytes, came: bytes) -> str:
    """Where two byte strings part, in few words."""
    at: Optional[int] = next((i for i, pair in enumerate(zip(allowed, came)) if pair[0] != pair[1]), None)
    if at is None:
        return f"{len(came)} bytes instead of {len(allowed)}: {_short(came)}"
    return f"{len(came)} bytes that differ at {at}: {came[at : at + 16]!r} instead of {allowed[at : at + 16]!r}"


def body(response: Response, allowed: bytes, context: str = "the content") -> None:
    if response.body != allowed:
        raise Violation(_short(allowed), difference(allowed, response.body), context)


def media_type(response: Response) -> tuple[str, str]:
    """Type and parameters of Content-Type, both lower-case."""
    kind, _, parameters = header(response, "Content-Type").partition(";")
    return kind.strip().lower(), parameters.replace(" ", "").lower()
