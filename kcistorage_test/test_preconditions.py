"""Conditional requests, ranges and HTTP-dates: DL-4, DL-5; RFC 9110 5.6.7, 13, 14."""

from __future__ import annotations

import calendar
import email.message
import email.parser
import email.policy
import email.utils
import itertools
import re
import time
from typing import NamedTuple, Optional, Union

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kcistorage_parts.preconditions import (
    MAX_RANGES,
    Decision,
    Representation,
    content_range,
    decide,
    first_byte,
    http_date,
    multipart_ranges,
    parse_http_date,
    unsatisfied_range,
)

PROPERTY = settings(deadline=None, max_examples=200)
NOW = calendar.timegm((2026, 11, 21, 3, 0, 0))
MODIFIED = calendar.timegm((1994, 11, 6, 8, 49, 37))
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE, AFTER = "Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"
TEN = Representation(size=10, etag='"abc"', modified=MODIFIED)
WHOLE = Decision(200, ((0, 10),))


def asked(fields: dict[str, str], method: str = "GET", what: Representation = TEN) -> Decision:
    return decide(method, {"host": "localhost", **fields}, what, now=NOW)


def ranged(field: str, size: int = 10) -> Decision:
    return asked({"range": field}, what=Representation(size, '"abc"', MODIFIED))


# ---- DL-5: ranges


@pytest.mark.parametrize(
    ("field", "spans"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-3", [(0, 4)]),
        ("bytes=9-9", [(9, 10)]),
        ("bytes=3-", [(3, 10)]),
        ("bytes=0-", [(0, 10)]),
        ("bytes=-1", [(9, 10)]),
        ("bytes=-10", [(0, 10)]),
        ("bytes=-11", [(0, 10)]),
        ("bytes=5-10", [(5, 10)]),
        ("bytes=5-" + "9" * 5000, [(5, 10)]),
        ("bytes=-" + "9" * 5000, [(0, 10)]),
        ("bytes=" + "0" * 5000 + "5-" + "0" * 6000 + "6", [(5, 7)]),
        ("BYTES=1-2", [(1, 3)]),
        ("Bytes=1-2", [(1, 3)]),
        ("bytes=1-2,", [(1, 3)]),
        ("bytes=, ,1-2 \t,\t", [(1, 3)]),
        ("bytes=0-1,4-5", [(0, 2), (4, 6)]),
        ("bytes=4-5 ,\t0-1", [(4, 6), (0, 2)]),
        ("bytes=0-4,5-9", [(0, 5), (5, 10)]),
        ("bytes=-2,0-0", [(8, 10), (0, 1)]),
        ("bytes=0-1,10-,50-60,-0", [(0, 2)]),
        ("bytes=0-0,2-2,99-", [(0, 1), (2, 3)]),
    ],
)
def test_satisfiable_ranges(field: str, spans: list[tuple[int, int]]) -> None:
    """DL-5: each range to its bytes, in the order of the request."""
    assert ranged(field) == Decision(206, tuple(spans))


@pytest.mark.parametrize("field", ["bytes=10-", "bytes=10-10", "bytes=11-20", "bytes=-0", "bytes=-000", "bytes=10-,-0"])
def test_unsatisfiable_ranges(field: str) -> None:
    """DL-5: no byte selected: 416."""
    assert ranged(field) == Decision(416, ())


@pytest.mark.parametrize(
    ("field", "start"),
    [
        ("bytes=7-", 7),
        ("bytes=7-9", 7),
        ("Bytes=0-0", 0),
        ("bytes=5-6, 1-2", 5),
        ("bytes=-5", 0),
        ("bytes=7-3", 0),
        ("lines=7-", 0),
        ("bytes=x", 0),
        ("", 0),
    ],
)
def test_where_an_answer_will_begin(field: str, start: int) -> None:
    assert first_byte({"range": field}) == start
    assert first_byte({}) == 0


def test_resuming_a_complete_download_is_unsatisfiable() -> None:
    """DL-5: `wget -c` of a complete file takes 416 for "nothing to do", and a 200 for a reason to start again."""
    assert ranged("bytes=4096-", size=4096).status == 416
    assert ranged("bytes=" + "9" * 5000 + "-", size=4096).status == 416


@pytest.mark.parametrize(
    "field",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes= , ",
        "bytes=-",
        "bytes=--1",
        "bytes=1",
        "bytes=5-4",
        "bytes=0-1,5-4",
        "bytes=" + "9" * 5000 + "1-" + "9" * 5000 + "0",
        "bytes=9223372036854775808-9223372036854775807",
        "bytes=20-19",
        "bytes=1-2-3",
        "bytes=1 -2",
        "bytes=1- 2",
        "bytes =1-2",
        "bytes=+1-2",
        "bytes=1-+2",
        "bytes=1_0-2_0",
        "bytes=0x1-2",
        "bytes=1.0-2",
        "bytes=a-b",
        "bytes=0-1;2-3",
        "bytes=0-1 2-3",
        "bytes=0-1, bytes=2-3",
        "bytes=\u0661-\u0662",
        "bytes=²-3",
        "bytes=0-1\n",
        "bytes:0-1",
        "items=0-1",
        "none",
        "0-1",
    ],
)
def test_malformed_ranges_and_other_units_are_ignored(field: str) -> None:
    """DL-5: what is no byte range is as if it was not sent."""
    assert ranged(field) == WHOLE


@pytest.mark.parametrize(
    "field", ["bytes=0-1,1-2", "bytes=0-0,0-0", "bytes=-5,0-5", "bytes=7-8,0-,9-9", "bytes=0-1,5-6,-5"]
)
def test_overlapping_ranges_give_the_whole(field: str) -> None:
    """DL-5: a byte asked for twice is sent once, with all the others."""
    assert ranged(field) == WHOLE


def test_too_many_ranges_give_the_whole() -> None:
    """DL-5: the stated limit, and just below it; empty list elements do not count."""
    assert MAX_RANGES == 16
    every_other = [f"{first}-{first}" for first in range(0, 34, 2)]
    assert ranged("bytes=" + ",".join(every_other), size=100) == Decision(200, ((0, 100),))
    permitted = ranged("bytes=,,," + ", ,".join(every_other[1:]), size=100)
    assert permitted == Decision(206, tuple((first, first + 1) for first in range(2, 34, 2)))


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ("bytes=0-", 416),
        ("bytes=0-0", 416),
        ("bytes=-0", 416),
        ("bytes=-5", 200),
        ("bytes=0-0,-5", 200),
        ("bytes=x", 200),
    ],
)
def test_ranges_of_an_empty_object(field: str, status: int) -> None:
    """DL-5: no byte can be selected, so 416; but a suffix is satisfiable, and is the whole."""
    assert ranged(field, size=0) == Decision(status, ((0, 0),) if status == 200 else ())


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE"])
@pytest.mark.parametrize("field", ["bytes=0-3", "bytes=99-", "bytes=0-1,4-5"])
def test_a_range_is_only_for_get(method: str, field: str) -> None:
    """DL-5: any other method ignores it."""
    assert asked({"range": field}, method) == WHOLE


class Asked(NamedTuple):
    """A range as the request means it: `first` None for a suffix of `last` bytes, `last` None for "to the end"."""

    first: Optional[int]
    last: Optional[int]

    def text(self, zeros: str) -> str:
        return "-".join("" if number is None else zeros + str(number) for number in self)

    def is_reversed(self) -> bool:
        return self.first is not None and self.last is not None and self.last < self.first

    def selected(self, size: int) -> list[int]:
        """The positions, each looked at for itself, which the range selects in an object of so many bytes."""
        if self.first is None:
            assert self.last is not None
            return [position for position in range(size) if size - position <= self.last]
        return [at for at in range(size) if at >= self.first and (self.last is None or at <= self.last)]


def model_answer(ranges: list[Asked], size: int) -> Union[int, list[list[int]]]:
    """What to send, by sets of positions: a status, or the positions part by part."""
    if len(ranges) > MAX_RANGES or any(spec.is_reversed() for spec in ranges):
        return 200
    parts = [positions for positions in (spec.selected(size) for spec in ranges) if positions]
    if size == 0 and any(spec.first is None and spec.last for spec in ranges):
        return 200
    if not parts:
        return 416
    total = sum(len(part) for part in parts)
    return parts if len(set().union(*parts)) == total else 200


number = st.one_of(
    st.integers(0, 70), st.sampled_from([10**18, 2**63 - 1, 2**63, 10**19, 10**20, 10**20 + 1, 10**400, 10**400 + 1])
)
range_spec = st.one_of(
    st.builds(lambda first, length: Asked(first, first + length), number, st.integers(0, 9)),
    st.builds(Asked, number, st.one_of(st.none(), number)),
    st.builds(Asked, st.none(), number),
)
comma = st.sampled_from([",", ", ", " ,", "\t,\t", ",,", ", ,,"])


@PROPERTY
@given(
    st.lists(st.tuples(range_spec, st.sampled_from(["", "0", "0" * 30])), min_size=1, max_size=MAX_RANGES + 2),
    comma,
    st.sampled_from(["", ",", " ,\t"]),
    st.sampled_from(["bytes", "Bytes", "bYTES"]),
    st.integers(0, 64),
)
def test_ranges_by_the_model(specs: list[tuple[Asked, str]], comma: str, edge: str, unit: str, size: int) -> None:
    """Invariant: the spans are the bytes asked for, in that order, or the status says why not (DL-5)."""
    field = f"{unit}={edge}{comma.join(spec.text(zeros) for spec, zeros in specs)}{edge}"
    expected = model_answer([spec for spec, _ in specs], size)
    status, spans = ranged(field, size)
    if isinstance(expected, int):
        assert (status, spans) == (expected, ((0, size),) if expected == 200 else ())
    else:
        assert status == 206
        assert [list(range(start, stop)) for start, stop in spans] == expected


def model_ranges(field: str) -> Optional[list[Asked]]:
    """The ranges of a field, read by an automaton of one character a step; None where it is malformed."""
    if field[:6].lower() != "bytes=":
        return None
    ranges: list[Asked] = []
    state, first, last = "between", "", ""
    for character in field[6:] + ",":
        blank, digit = character in " \t", "0" <= character <= "9"
        if state == "between" and (blank or character == ","):
            continue
        if state in ("between", "first") and digit:
            state, first = "first", first + character
        elif state in ("between", "first") and character == "-":
            state = "last"
        elif state == "last" and digit:
            last += character
        elif state in ("last", "after") and (blank or character == ",") and (first or last):
            state = "after" if blank else "between"
            if state == "between":
                ranges.append(Asked(int(first) if first else None, int(last) if last else None))
                first = last = ""
        else:
            return None
    return ranges or None


@PROPERTY
@given(
    st.text(alphabet="0123459--,, \t", max_size=24),
    st.sampled_from(["bytes=", "BYTES=", "bytes", "byte=", ""]),
    st.integers(0, 12),
)
@example("1-2 3", "bytes=", 9)
@example("-", "bytes=", 9)
def test_any_text_by_the_model(ranges: str, start: str, size: int) -> None:
    """Invariant: a Range is read by the letter of RFC 9110 14.1.1, and ignored where it does not fit (DL-5)."""
    parsed = model_ranges(start + ranges)
    expected = 200 if parsed is None else model_answer(parsed, size)
    status, spans = ranged(start + ranges, size)
    assert status == (expected if isinstance(expected, int) else 206)
    if not isinstance(expected, int):
        assert [list(range(*span)) for span in spans] == expected


@PROPERTY
@given(
    st.dictionaries(st.sampled_from(["range", "if-range", "if-match", "if-none-match", "if-modified-since"]), st.text())
)
def test_nothing_that_a_client_sends_raises(fields: dict[str, str]) -> None:
    """Invariant: any text in any field leads to a decision whose spans lie in the object (DL-5)."""
    status, spans = asked(fields)
    assert status in (200, 206, 304, 412, 416)
    assert bool(spans) == (status in (200, 206))
    assert all(0 <= start < stop <= 10 for start, stop in spans)


# ---- DL-4: If-Match, If-None-Match


@pytest.mark.parametrize(
    ("tags", "strong", "weak"),
    [
        ('"abc"', True, True),
        ('W/"abc"', False, True),
        ("*", True, True),
        ('"x", "abc"', True, True),
        ('"x","abc"', True, True),
        (',, "x" ,\t"abc" , ', True, True),
        ('"x", W/"abc"', False, True),
        ('"x"', False, False),
        ('"ABC"', False, False),
        ('w/"abc"', False, False),
        ('W/ "abc"', False, False),
        ('"abc', False, False),
        ('abc"', False, False),
        ("abc", False, False),
        ("'abc'", False, False),
        ("", False, False),
        (",", False, False),
        ('""', False, False),
        ('"abc""x"', False, False),
        ('"abc" "x"', False, False),
        ('"x,"abc","', False, False),
        ('"x,\\"abc\\""', False, False),
        ('"abc"\n', False, False),
        ('*, "x"', False, False),
        ('*, "abc"', True, True),
        ('abc, "abc"', True, True),
        ('"with space", "abc"', False, False),
        ('"abc", x"y, "z"', True, True),
    ],
)
def test_lists_of_entity_tags(tags: str, strong: bool, weak: bool) -> None:
    """DL-4: If-Match compares strongly, If-None-Match weakly; what is no tag matches nothing."""
    assert asked({"if-match": tags}) == (WHOLE if strong else Decision(412, ()))
    assert asked({"if-none-match": tags}) == (Decision(304, ()) if weak else WHOLE)


def test_a_comma_may_be_part_of_an_entity_tag() -> None:
    """DL-4: a list is not cut at every comma."""
    comma = Representation(10, '"a,b"', MODIFIED)
    assert asked({"if-none-match": '"x", "a,b"'}, what=comma).status == 304
    assert asked({"if-none-match": '"a", "b"'}, what=comma).status == 200
    half = Representation(10, '"b"', MODIFIED)
    assert asked({"if-none-match": '"a,"b",c"'}, what=half).status == 200
    assert asked({"if-match": '"a,b"'}, what=half).status == 412


opaque = st.text(alphabet="!#abc,,W/*~\\\x80\xff'", max_size=5).map('"{}"'.format)
member = st.tuples(st.booleans(), opaque)


@PROPERTY
@given(opaque, st.lists(member, min_size=1, max_size=5), comma, st.sampled_from(["", ",", "\t, "]))
def test_entity_tags_by_the_model(etag: str, members: list[tuple[bool, str]], comma: str, edge: str) -> None:
    """Invariant: If-Match holds if the tag is listed and not weak, If-None-Match fails if it is listed (DL-4)."""
    field = edge + comma.join(("W/" if weak else "") + tag for weak, tag in members) + edge
    what = Representation(10, etag, MODIFIED)
    assert (asked({"if-match": field}, what=what).status == 200) == ((False, etag) in members)
    assert (asked({"if-none-match": field}, what=what).status == 304) == (etag in [tag for _, tag in members])


@pytest.mark.parametrize("filling", ['"', '"a,', 'W/"', ",", " ", '" ', '"a" ', "a", '"a", ', "\\"])
def test_a_hostile_list_is_judged_at_once(filling: str) -> None:
    """DL-4: Ends within the test's time limit only if the judgement does not backtrack exponentially."""
    assert asked({"if-match": filling * 8000 + "\0"}).status == 412


@pytest.mark.parametrize(("method", "status"), [("GET", 304), ("HEAD", 304), ("PUT", 412), ("DELETE", 412)])
def test_if_none_match_by_method(method: str, status: int) -> None:
    """DL-4: not modified where the object is read, a failed precondition where it is changed."""
    assert asked({"if-none-match": '"abc"'}, method) == Decision(status, ())


# ---- DL-4: If-Unmodified-Since, If-Modified-Since, If-Range


@pytest.mark.parametrize(
    ("date", "unmodified", "modified"),
    [
        (BEFORE, 412, 200),
        (DATE, 200, 304),
        (AFTER, 200, 304),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 200, 304),
        ("Sun Nov  6 08:49:37 1994", 200, 304),
        ("Sat Nov  5 08:49:37 1994", 412, 200),
        ("Sun, 06 Nov 2094 08:49:37 GMT", 200, 304),
        ("yesterday", 200, 200),
        ("784111777", 200, 200),
        ("", 200, 200),
        (f"{BEFORE}, {BEFORE}", 200, 200),
    ],
)
def test_dates(date: str, unmodified: int, modified: int) -> None:
    """DL-4: all three forms; what is no date is ignored."""
    assert asked({"if-unmodified-since": date}).status == unmodified
    assert asked({"if-unmodified-since": date}, "DELETE").status == unmodified
    assert asked({"if-modified-since": date}).status == modified
    assert asked({"if-modified-since": date}, "HEAD").status == modified
    assert asked({"if-modified-since": date}, "PUT").status == 200


@pytest.mark.parametrize(
    ("validator", "status"),
    [
        ('"abc"', 206),
        ('W/"abc"', 200),
        ('"x"', 200),
        ('"abc", "x"', 200),
        ("*", 200),
        (DATE, 206),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 206),
        ("Sun Nov  6 08:49:37 1994", 206),
        (BEFORE, 200),
        (AFTER, 200),
        ("", 200),
        ("abc", 200),
    ],
)
def test_if_range(validator: str, status: int) -> None:
    """DL-5: the same strong tag or the same date, else the Range is ignored."""
    assert asked({"range": "bytes=0-3", "if-range": validator}).status == status
    assert asked({"range": "bytes=99-", "if-range": validator}).status == (416 if status == 206 else 200)
    assert asked({"if-range": validator}) == WHOLE


# For each field: what it may say, True where the condition holds, and the value that says it. None: not sent.
STATES: dict[str, dict[object, Optional[str]]] = {
    "if-match": {None: None, True: '"abc"', False: '"x"'},
    "if-unmodified-since": {None: None, True: DATE, False: BEFORE, "bad": "06 Nov 1994"},
    "if-none-match": {None: None, True: '"x"', False: 'W/"abc"'},
    "if-modified-since": {None: None, True: BEFORE, False: DATE, "bad": "06 Nov 1994"},
    "if-range": {None: None, True: '"abc"', False: 'W/"abc"'},
    "range": {None: None, 206: "bytes=0-3", 416: "bytes=10-", "bad": "bytes=3-0"},
}


def rfc_answer(
    method: str, match: object, unmodified: object, none_match: object, since: object, if_range: object, span: object
) -> int:
    """RFC 9110 13.2.2, its steps in its order."""
    reads = method in ("GET", "HEAD")
    if match is False:  # step 1
        return 412
    if match is None and unmodified is False:  # step 2
        return 412
    if none_match is False:  # step 3
        return 304 if reads else 412
    if reads and none_match is None and since is False:  # step 4
        return 304
    if method == "GET" and span in (206, 416) and if_range is not False:  # step 5
        return 206 if span == 206 else 416
    return 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_precedence(method: str) -> None:
    """Invariant: every combination of the six fields is answered by the steps of RFC 9110 13.2.2 (DL-4)."""
    for states in itertools.product(*STATES.values()):
        values = {name: STATES[name][state] for name, state in zip(STATES, states)}
        fields = {name: value for name, value in values.items() if value is not None}
        assert asked(fields, method).status == rfc_answer(method, *states), fields


def test_an_unconditional_request_gets_the_whole() -> None:
    """DL-5: without a field of ours nothing is left out, of an empty object neither."""
    assert asked({"user-agent": "curl/8", "accept": "*/*"}) == WHOLE
    assert asked({}, what=Representation(0, '"e"', 0)) == Decision(200, ((0, 0),))


def test_now_decides_the_century() -> None:
    """DL-4: the same two digits, asked in 2026 and in 2080."""
    today = Representation(10, '"abc"', NOW)
    fields = {"if-modified-since": "Friday, 06-Nov-99 08:49:37 GMT"}
    assert decide("GET", fields, today, now=NOW).status == 200
    assert decide("GET", fields, today, now=calendar.timegm((2080, 1, 1, 0, 0, 0))).status == 304


def test_the_clock_is_the_default_for_now() -> None:
    """DL-4: In two digits, the year 49 years ahead is in the future and the year 51 years ahead is in the past."""
    ahead = {years: f"{(time.gmtime().tm_year + years) % 100:02}" for years in (49, 51)}
    fields = {years: {"if-modified-since": f"Sunday, 06-Nov-{digits} 08:49:37 GMT"} for years, digits in ahead.items()}
    today = Representation(10, '"abc"', int(time.time()))
    assert decide("GET", fields[49], today).status == 304
    assert decide("GET", fields[51], today).status == 200


# ---- RFC 9110 5.6.7: HTTP-date


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun,06 Nov 1994 08:49:37 GMT",
        "sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        " Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT\n",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sun, 06-Nov-94 08:49:37 GMT",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sunday, 06 Nov 1994 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov  6 08:49:37 1994 GMT",
        "Sun Nov 06 08:49:37 94",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 29 Feb 1900 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun Nov  0 08:49:37 1994",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1994 8:49:37 GMT",
        "Sun, 06 Nov ١٩٩٤ 08:49:37 GMT",
        "Nov, 06 Sun 1994 08:49:37 GMT",
        "1994-11-06T08:49:37Z",
        "-1",
        "0",
        "",
    ],
)
def test_what_is_no_http_date(text: str) -> None:
    """RFC 9110 5.6.7: the forms are fixed to the letter."""
    assert parse_http_date(text, NOW) is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (DATE, (1994, 11, 6, 8, 49, 37)),
        ("Sunday, 06-Nov-94 08:49:37 GMT", (1994, 11, 6, 8, 49, 37)),
        ("Sun Nov  6 08:49:37 1994", (1994, 11, 6, 8, 49, 37)),
        ("Sun Nov 06 08:49:37 1994", (1994, 11, 6, 8, 49, 37)),
        ("Mon, 06 Nov 1994 08:49:37 GMT", (1994, 11, 6, 8, 49, 37)),
        ("Thu, 29 Feb 2024 00:00:00 GMT", (2024, 2, 29, 0, 0, 0)),
        ("Sat, 31 Dec 2016 23:59:60 GMT", (2017, 1, 1, 0, 0, 0)),
        ("Thu, 01 Jan 1970 00:00:00 GMT", (1970, 1, 1, 0, 0, 0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", (9999, 12, 31, 23, 59, 59)),
        ("Saturday, 21-Nov-76 03:00:00 GMT", (2076, 11, 21, 3, 0, 0)),
        ("Saturday, 21-Nov-76 03:00:01 GMT", (1976, 11, 21, 3, 0, 1)),
        ("Friday, 31-Dec-99 23:59:59 GMT", (1999, 12, 31, 23, 59, 59)),
        ("Saturday, 01-Jan-00 00:00:00 GMT", (2000, 1, 1, 0, 0, 0)),
        ("Wednesday, 21-Nov-26 03:00:00 GMT", (2026, 11, 21, 3, 0, 0)),
    ],
)
def test_http_dates(text: str, moment: tuple[int, ...]) -> None:
    """RFC 9110 5.6.7: three forms, one moment."""
    assert parse_http_date(text, NOW) == calendar.timegm(moment)


def test_http_date_is_an_imf_fixdate() -> None:
    """RFC 9110 5.6.7: the one form that is written."""
    assert http_date(MODIFIED) == DATE
    assert http_date(0) == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert http_date(-1) == "Wed, 31 Dec 1969 23:59:59 GMT"


years_1_to_9999 = st.integers(-62135596800, 253402300799)


@PROPERTY
@given(years_1_to_9999)
def test_dates_come_back(seconds: int) -> None:
    """Invariant: an IMF-fixdate reads as the standard library writes it, and comes back, as asctime does."""
    assert http_date(seconds) == email.utils.formatdate(seconds, usegmt=True)
    assert parse_http_date(http_date(seconds), NOW) == seconds
    year = time.gmtime(seconds).tm_year
    assert parse_http_date(re.sub(r"\d+$", f"{year:04}", time.asctime(time.gmtime(seconds))), NOW) == seconds


@PROPERTY
@given(years_1_to_9999, st.integers(0, 7 * 10**9))
@example(calendar.timegm((2050, 1, 1, 0, 0, 0)), calendar.timegm((2000, 1, 1, 0, 0, 0)))
@example(calendar.timegm((2049, 12, 31, 23, 59, 59)), calendar.timegm((1999, 12, 31, 23, 59, 59)))
@example(calendar.timegm((2001, 6, 1, 0, 0, 0)), calendar.timegm((2099, 6, 1, 0, 0, 0)))
def test_two_digit_years(seconds: int, now: int) -> None:
    """Invariant: an RFC 850 date is the latest moment of its digits that is not more than fifty years ahead."""
    at = time.gmtime(seconds)
    assume((at.tm_mon, at.tm_mday) != (2, 29))
    long_day = ("Mon", "Tues", "Wednes", "Thurs", "Fri", "Satur", "Sun")[at.tm_wday] + "day"
    _, day, month, _, clock, _ = http_date(seconds).split(" ")
    text = f"{long_day}, {day}-{month}-{at.tm_year % 100:02} {clock} GMT"
    limit = (time.gmtime(now).tm_year + 50, *time.gmtime(now)[1:6])
    moments = [(year, *at[1:6]) for year in range(1800, 2400) if year % 100 == at.tm_year % 100]
    expected = max(moment for moment in moments if moment <= limit)
    assert parse_http_date(text, now) == calendar.timegm(expected)


# ---- What a 206 or 416 holds


def test_content_range() -> None:
    """DL-5: 206 names the bytes it holds, 416 the size."""
    assert content_range((0, 1), 10) == "bytes 0-0/10"
    assert content_range((3, 10), 10) == "bytes 3-9/10"
    assert unsatisfied_range(10) == "bytes */10"
    assert unsatisfied_range(0) == "bytes */0"


def test_multipart_byteranges_to_the_letter() -> None:
    """DL-5: the body of RFC 9110 14.6."""
    parts, closing, length = multipart_ranges([(0, 2), (4, 6)], 10, "text/plain", "B")
    content = b"0123456789"
    body = b"".join(part.head + content[slice(*part.span)] for part in parts) + closing
    assert body == (
        b"--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01"
        b"\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 4-5/10\r\n\r\n45"
        b"\r\n--B--\r\n"
    )
    assert length == len(body)


@PROPERTY
@given(st.binary(min_size=8, max_size=40), st.data())
def test_a_mime_parser_reads_the_parts(content: bytes, data: st.DataObject) -> None:
    """Invariant: the body has the promised length, and a MIME parser finds each span under its Content-Range (DL-5)."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), min_size=4, max_size=8, unique=True)))
    spans = list(zip(cuts[::2], cuts[1::2]))
    parts, closing, length = multipart_ranges(spans, len(content), "application/x-tar", "limit0123456789")
    body = b"".join(part.head + content[slice(*part.span)] for part in parts) + closing
    assert len(body) == length
    head = b"Content-Type: multipart/byteranges; boundary=limit0123456789\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    assert isinstance(message, email.message.EmailMessage)
    found = [
        (part["Content-Range"], part["Content-Type"], part.get_payload(decode=True)) for part in message.iter_parts()
    ]
    assert found == [(content_range(span, len(content)), "application/x-tar", content[slice(*span)]) for span in spans]
