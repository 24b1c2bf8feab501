"""Pure oracles: from the bytes really sent to the outcomes RFC 9110 allows.

They are written from the RFC and share no code with any server. Where the RFC leaves a choice, every choice is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple, Optional


class Span(NamedTuple):
    """Bytes first to last, both included."""

    first: int
    last: int


@dataclass(frozen=True)
class RangeAllowed:
    """What may come: the whole (200), exactly these merged spans (206), or unsatisfiable (416)."""

    whole: bool = False
    spans: Optional[tuple[Span, ...]] = None
    unsatisfiable: bool = False

    def __str__(self) -> str:
        words = ["200 whole"] if self.whole else []
        if self.spans is not None:
            words.append("206 " + ", ".join(f"{first}-{last}" for first, last in self.spans))
        return " or ".join(words + (["416"] if self.unsatisfiable else []))


_INT = re.compile(r"([0-9]+)-([0-9]*)")
_SUFFIX = re.compile(r"-([0-9]+)")
WHOLE = RangeAllowed(whole=True)


def merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The same bytes as spans in order that neither overlap nor touch."""
    out: list[Span] = []
    for span in sorted(spans):
        if out and span.first <= out[-1].last + 1:
            out[-1] = Span(out[-1].first, max(out[-1].last, span.last))
        else:
            out.append(span)
    return tuple(out)


def range(size: int, header: Optional[str]) -> RangeAllowed:  # noqa: A001 - the name the protocol has for it
    """What may answer a GET with that Range for an object of `size` bytes. RFC 9110 14.1.1, 14.1.2, 14.2."""
    if header is None:
        return WHOLE
    unit, equals, listed = header.strip(" \t").partition("=")
    if unit.lower() != "bytes" or not equals:
        return WHOLE
    # RFC 9110 5.6.1: empty list elements and blanks around the commas are to be read over.
    specs = [spec.strip(" \t") for spec in listed.split(",")]
    elements = [spec for spec in specs if spec]
    strict = unit == "bytes" and elements == listed.split(",")
    found: list[Span] = []
    for spec in elements:
        first, last = _INT.fullmatch(spec), _SUFFIX.fullmatch(spec)
        if first is not None and (first[2] == "" or int(first[1]) <= int(first[2])):
            end = size - 1 if first[2] == "" else min(int(first[2]), size - 1)
            found += [Span(int(first[1]), end)] if int(first[1]) < size else []
        elif last is not None:
            found += [Span(max(0, size - int(last[1])), size - 1)] if int(last[1]) and size else []
        else:
            # RFC 9110 14.2: an invalid set is ignored or rejected; only a reversed pair may be either here.
            return RangeAllowed(whole=True, unsatisfiable=first is not None)
    if not elements:
        return WHOLE
    if not found:
        # RFC 9110 14.4 has no way to say a range of nothing: an empty object may be sent whole.
        return RangeAllowed(whole=size == 0 or not strict, unsatisfiable=True)
    return RangeAllowed(whole=not strict or len(elements) > 1, spans=merged(found))


# ----------------------------------------------------------------------------------------------------- conditions

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_DATE_FORMS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")


def http_date(value: str) -> Optional[datetime]:
    """One of the three forms of RFC 9110 5.6.7, else None."""
    for form in _DATE_FORMS:
        try:
            found = datetime.strptime(value, form).replace(tzinfo=timezone.utc)
        except ValueError:
            continue
        if form == _DATE_FORMS[1] and found.year > datetime.now(timezone.utc).year + 50:
            found = found.replace(year=found.year - 100)
        return found
    return None


def entity_tags(value: str) -> Optional[list[str]]:
    """The tags of a list, None when it is malformed."""
    tags: list[str] = []
    rest = value.strip(" \t")
    while rest:
        match = _TAG.match(rest)
        if match is None:
            return None
        tags.append(match[0])
        rest = rest[match.end() :].lstrip(" \t")
        if rest and not rest.startswith(","):
            return None
        rest = rest.lstrip(", \t")
    return tags or None


def _matches(value: str, etag: str, *, weak: bool) -> Optional[bool]:
    """Whether a list matches; None when it is malformed, where no answer is wrong."""
    if value.strip(" \t") == "*":
        return True
    tags = entity_tags(value)
    if tags is None:
        return None
    if weak:
        return etag[2 if etag.startswith("W/") else 0 :] in [tag[2 if tag.startswith("W/") else 0 :] for tag in tags]
    return not etag.startswith("W/") and etag in tags


def conditional(headers: Mapping[str, str], etag: str, modified: datetime) -> frozenset[int]:
    """The statuses (200, 304, 412) allowed for a GET of an existing object. RFC 9110 13.2.2.

    `headers` has lower-case names. 200 stands for "go on": with a Range it may become 206 or 416.
    """
    if "if-match" in headers:
        match = _matches(headers["if-match"], etag, weak=False)
        if match is None:
            return frozenset((200, 304, 400, 412))
        if not match:
            return frozenset((412,))
    elif "if-unmodified-since" in headers:
        since = http_date(headers["if-unmodified-since"])
        if since is not None and modified > since:
            return frozenset((412,))
    if "if-none-match" in headers:
        match = _matches(headers["if-none-match"], etag, weak=True)
        return frozenset((200, 304, 400)) if match is None else frozenset((304 if match else 200,))
    if "if-modified-since" in headers:
        since = http_date(headers["if-modified-since"])
        if since is not None:
            return frozenset((200 if modified > since else 304,))
    return frozenset((200,))
