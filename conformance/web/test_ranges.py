"""Ranges: DL-5."""

from __future__ import annotations

import re

from conformance.core import expect, oracle
from conformance.core.oracle import RangeAllowed, Span
from conformance.core.registry import shared
from conformance.core.strategies import explore, range_headers
from conformance.core.wire import Response
from conformance.web.client import Client, Sample


def content_range(value: str, context: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)", value)
    if match is None:
        raise expect.Violation("bytes first-last/size", value, context)
    return int(match[1]), int(match[2]), int(match[3])


def _multipart(body: bytes, boundary: bytes, data: bytes, context: str) -> list[Span]:
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if len(pieces) < 3 or pieces[-1].strip() != b"--":
        raise expect.Violation("parts between boundaries and an end", f"{body[:80]!r}…", context)
    spans: list[Span] = []
    for piece in pieces[1:-1]:
        head, blank, content = piece.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)\r\ncontent-range:[ \t]*([^\r\n]*)", head)
        if not blank or found is None:
            raise expect.Violation("a Content-Range in each part", repr(head), context)
        first, last, size = content_range(found[1].decode("latin-1").strip(), context)
        expect.equal(size, len(data), f"{context}: the size in Content-Range")
        expect.that(content == data[first : last + 1], f"bytes {first}-{last}", repr(content[:40]), context)
        spans.append(Span(first, last))
    return spans


def byte_parts(response: Response, data: bytes, context: str) -> list[Span]:
    """The spans of a 206, each checked against the object."""
    kind = response.get("Content-Type") or ""
    if not kind.lower().startswith("multipart/byteranges"):
        first, last, size = content_range(expect.header(response, "Content-Range", context), context)
        expect.equal(size, len(data), f"{context}: the size in Content-Range")
        expect.body(response, data[first : last + 1], f"{context}: bytes {first}-{last}")
        return [Span(first, last)]
    match = re.search(r'boundary="?([^";]+)"?', kind)
    if match is None:
        raise expect.Violation("a boundary", kind, context)
    expect.no_header(response, "Content-Range", f"{context}: multipart/byteranges")
    return _multipart(response.body, match[1].encode(), data, context)


def judge(response: Response, data: bytes, allowed: RangeAllowed, context: str) -> None:
    """The answer is one of the allowed outcomes, and true in all its parts."""
    if response.status == 206 and allowed.spans is not None:
        spans = byte_parts(response, data, context)
        expect.equal(oracle.merged(spans), allowed.spans, f"{context}: the spans")
    elif response.status == 416 and allowed.unsatisfiable:
        expect.equal(expect.header(response, "Content-Range", context), f"bytes */{len(data)}", context)
    elif response.status == 200 and allowed.whole:
        expect.no_header(response, "Content-Range", context)
        expect.body(response, data, context)
    else:
        raise expect.Violation(str(allowed), expect.describe(response), context)


def _asked(web: Client, sample: Sample, *headers: str) -> None:
    """Each Range against the oracle."""
    for header in headers:
        response = web.get(sample.path, Range=header)
        judge(response, sample.data, oracle.range(len(sample.data), header), f"Range: {header}")


@shared("range.closed", writes=False)
def test_closed(web: Client) -> None:
    """First byte, last byte, some in the middle, all of it."""
    sample = web.sample()
    end = len(sample.data) - 1
    _asked(web, sample, "bytes=0-0", f"bytes={end}-{end}", "bytes=5-9", "bytes=1-1", f"bytes=0-{end}")
    response = web.get(sample.path, Range="bytes=0-0")
    expect.equal(expect.header(response, "Content-Length"), "1", "Content-Length of 0-0")
    expect.equal(expect.header(response, "ETag"), sample.etag, "the ETag of a 206")


@shared("range.open", writes=False)
def test_open(web: Client) -> None:
    """To the end, as resuming clients ask."""
    sample = web.sample()
    _asked(web, sample, "bytes=0-", "bytes=1-", f"bytes={len(sample.data) - 1}-")


@shared("range.suffix", writes=False)
def test_suffix(web: Client) -> None:
    """The last bytes."""
    sample = web.sample()
    _asked(web, sample, "bytes=-1", "bytes=-7", f"bytes=-{len(sample.data) - 1}", f"bytes=-{len(sample.data)}")


@shared("range.suffix.clamped", writes=False)
def test_suffix_clamped(web: Client) -> None:
    """More of the last bytes than there are."""
    sample = web.sample()
    _asked(web, sample, f"bytes=-{len(sample.data) + 1}", "bytes=-99999999999999999999999")


@shared("range.clamped", writes=False)
def test_clamped(web: Client) -> None:
    """An end beyond the end, up to numbers that fit no register."""
    sample = web.sample()
    _asked(web, sample, *(f"bytes=3-{end}" for end in (len(sample.data), 2**31, 2**32, 2**63, 2**64, 10**40)))


@shared("range.unsatisfiable", writes=False)
def test_unsatisfiable(web: Client) -> None:
    """Behind the end, and the last 0 bytes."""
    sample = web.sample()
    size = len(sample.data)
    _asked(web, sample, f"bytes={size}-", f"bytes={size}-{size + 5}", f"bytes={2**64}-", f"bytes={10**40}-", "bytes=-0")


@shared("range.malformed", writes=False)
def test_malformed(web: Client) -> None:
    """Not a byte range: as if it were not there."""
    sample = web.sample()
    _asked(
        web,
        sample,
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=0x0-5",
        "bytes=0-5;",
        "items=0-5",
        "0-5",
    )
    _asked(web, sample, "bytes=0-5,x", "bytes=1-2-3", "bytes=--1", "bytes=+1-2", "bytes=0-\xb2")


@shared("range.reversed", writes=False)
def test_reversed(web: Client) -> None:
    """The end before the start."""
    sample = web.sample()
    _asked(web, sample, "bytes=5-2", "bytes=1-0", "bytes=1000-1")
    _asked(web, sample, "bytes=2-5")


@shared("range.several", writes=False)
def test_several(web: Client) -> None:
    """Apart, out of order, overlapping, partly behind the end."""
    sample = web.sample()
    size = len(sample.data)
    _asked(web, sample, "bytes=0-1,4-5", "bytes=10-19,0-4", "bytes=0-9,5-14", "bytes=0-0,-1", f"bytes=0-1,{size}-")
    _asked(web, sample, "bytes=0-1, 4-5, 8-9", "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 200, 2)))


@shared("range.if-range", writes=False)
def test_if_range(web: Client) -> None:
    """A download resumed, of the same object and of another."""
    sample = web.sample()
    size = len(sample.data)
    part, whole = oracle.range(size, "bytes=2-5"), oracle.WHOLE
    either = RangeAllowed(whole=True, spans=part.spans)
    # RFC 9110 13.1.5: a date counts only where it is a strong validator, which a fresh object's is not.
    cases = (
        (sample.etag, part),
        ('"another"', whole),
        (f"W/{sample.etag}", whole),
        ("Mon, 01 Jan 1990 00:00:00 GMT", whole),
        (sample.modified, either),
        ("nonsense", whole),
    )
    for value, allowed in cases:
        response = web.get(sample.path, Range="bytes=2-5", If_Range=value)
        judge(response, sample.data, allowed, f"If-Range: {value}")


@shared("range.head", writes=False)
def test_head(web: Client) -> None:
    """Range is defined for GET only."""
    sample = web.sample()
    expect.status(web.get(sample.path, Range="bytes=2-5"), 206, context="GET with the range")
    response = web.request("HEAD", sample.path, [("Range", "bytes=2-5")])
    expect.status(response, 200, context="HEAD with the range")
    expect.equal(expect.header(response, "Content-Length"), str(len(sample.data)), "Content-Length of HEAD")


@shared("range.any")
def test_any(web: Client) -> None:
    """Invariant: whatever the header, the answer is one the oracle allows."""
    for size in (0, 1, 2, 1287):
        data = bytes(index % 251 for index in range(size))
        path = web.stored_as(f"{size}.bin", data)

        def agrees(header: str, path: str = path, data: bytes = data) -> None:
            response = web.get(path, Range=header)
            judge(response, data, oracle.range(len(data), header), f"{len(data)} bytes")

        options = web.run.options
        explore(range_headers(size), agrees, examples=options.examples, with_seed=options.seed)
