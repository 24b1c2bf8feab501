"""Form data: a multipart/form-data body (RFC 7578) as a stream of events (UP-2, UP-3, UP-5, UP-7).

`multipart` finds the parts; what a part is called is read here. Its own decoding of names turns `%22` into a quote and
drops `C:\\dir\\`, as suits web forms, whereas a file name has to arrive to the letter (UP-3).

    Part(name="path", filename=None, content_type=None)      the head of a part
    b"artifacts/build-123"                                   its data, in any number of blocks, none of them empty
    None                                                     its end

Memory is bounded by CHUNK and the limits below, however long the body is. One thread reads one form.
Works with multipart 1.2.2, 1.3.1 (the last for Python 3.9) and 2.x. The others can be kept busy for minutes by one
header line (CVE-2026-28356).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Optional, Union

import multipart  # type: ignore[import-untyped]

CHUNK = 256 * 1024  # bytes asked for at a time. Measured: parses 7.5 GB/s with 64 KiB, 9.4 with 256 KiB, 10 with 1 MiB

MAX_BOUNDARY = 200  # characters; RFC 2046 5.1.1 allows 70, browsers and curl send about 40
MAX_HEADER_BYTES = 8 * 1024  # a line; a key of 1,024 bytes as filename and again, percent-encoded, as filename*
MAX_HEADERS = 16  # a part; RFC 7578 4.8 knows three, libraries for e-mail add a few
MAX_PARTS = 1024  # a form; kernelci-core sends a few dozen files at once

REASONS: dict[str, str] = {
    "form-not-multipart": "The body is not multipart/form-data",
    "form-no-boundary": "The Content-Type names no boundary, or none that can be used",
    "form-malformed": "The form is malformed",
    "form-truncated": "The form ends before its last boundary",
    "form-not-utf8": "The headers of a part are not UTF-8",
    "form-part-unnamed": "A part of the form has no name",
    "form-control-character": "A header of a part holds a control character",
    "form-header-too-large": "A part of the form has too many headers, or one that is too long",
    "form-too-many-parts": f"The form has more than {MAX_PARTS} parts",
}


class BadForm(ValueError):
    """A body that is not the form it should be: `reason` for log and metrics, `text` for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(REASONS[reason])
        self.reason = reason
        self.text = REASONS[reason]


# ---- Header parameters (RFC 2045 5.1, RFC 7578 4.2)

# One `; name=value`. Backslashes: browsers and curl from 7.81 on send them as they are, older curl sent \" for a quote.
# So \" is a quote and every other backslash is itself; a closing quote has to be followed by the next parameter or the
# end, so that `filename="dir\"` is read as the only thing it can be. Linear: no text can be matched in two ways.
_PARAMETER = re.compile(
    r"""; [ \t]* (?:
        (?P<name> [!#$%&'*+.^_`|~0-9A-Za-z-]+ ) [ \t]* = [ \t]*
        (?: " (?P<quoted> [^"\\]* (?: \\"? [^"\\]* )* ) " | (?P<plain> [^ \t";]+ ) ) [ \t]*
    )? (?= ; | \Z )""",
    re.VERBOSE,
)


def _parameters(header: str) -> dict[str, str]:
    """What follows the first semicolon of a header value, by lower-case name. Each may occur once."""
    header = header.rstrip(" \t")
    parameters: dict[str, str] = {}
    position = header.find(";") if ";" in header else len(header)
    while position < len(header):
        found = _PARAMETER.match(header, position)
        name = (found["name"] or "").lower() if found else ""
        if found is None or name in parameters:
            raise BadForm("form-malformed")
        if name:
            parameters[name] = found["plain"] if found["quoted"] is None else found["quoted"].replace('\\"', '"')
        position = found.end()
    return parameters


_BOUNDARY = re.compile(rf"[ -~]{{0,{MAX_BOUNDARY - 1}}}[!-~]")  # RFC 2046 5.1.1: a space may not be the last character


def boundary(content_type: str) -> str:
    """The boundary that a request's Content-Type names, quoted or not. Raises BadForm.

    More lenient than RFC 2046 5.1.1 in length and characters: Python's e-mail library, for one, does not quote a `=`.
    """
    if content_type.partition(";")[0].strip(" \t").lower() != "multipart/form-data":
        raise BadForm("form-not-multipart")
    found = _parameters(content_type).get("boundary", "")
    if not _BOUNDARY.fullmatch(found):
        raise BadForm("form-no-boundary")
    return found


# ---- Parts


class Part(NamedTuple):
    """The head of a part. `filename` is as the client sent it, folders and all; `content_type` is for information."""

    name: str
    filename: Optional[str]
    content_type: Optional[str]


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _part(headers: Sequence[tuple[str, str]]) -> Part:
    """RFC 7578 4.2: one Content-Disposition, with a name. `filename*` is ignored, like all that is not asked for."""
    dispositions = [value for header, value in headers if header == "Content-Disposition"]
    if len(dispositions) != 1:
        raise BadForm("form-malformed")
    parameters = _parameters(dispositions[0])
    if "name" not in parameters:
        raise BadForm("form-part-unnamed")
    content_type = next((value for header, value in headers if header == "Content-Type"), None)
    part = Part(parameters["name"], parameters.get("filename"), content_type)
    if any(_CONTROL.search(text) for text in part if text):
        raise BadForm("form-control-character")
    return part


# ---- The stream

Event = Union[Part, bytes, None]

# multipart 1.x takes a line that goes on after the boundary for data, and then may run over real boundaries behind it.
# RFC 2046 5.1.1: a line that begins with the boundary is one. 2.x refuses such a form by itself.
_RUNS_OVER_BOUNDARIES = multipart.__version__.startswith("1.")


class _Seams:
    """Refuses data that holds a delimiter, be it across two blocks."""

    def __init__(self, delimiter: bytes) -> None:
        self._delimiter = delimiter
        self._end_of_last = b""

    def check(self, data: bytes) -> None:
        length = len(self._delimiter)
        if self._delimiter in data or self._delimiter in self._end_of_last + data[:length]:
            raise BadForm("form-malformed")
        self._end_of_last = (self._end_of_last + data[-length:])[-length:]


def _opening(read: Callable[[int], bytes], delimiter: bytes) -> bytes:
    """The first bytes of the body, enough of them to tell that it begins with the boundary.

    RFC 2046 5.1.1 would allow a preamble; no client of ours sends one, and a body that starts with something else is
    something else.
    """
    openings = (delimiter, delimiter[2:])  # some clients send the line end that belongs to the delimiter, most do not
    opening = block = read(CHUNK)
    while block and len(opening) < len(delimiter):
        block = read(CHUNK)
        opening += block
    if not opening.startswith(openings):
        cut_short = any(whole.startswith(opening) for whole in openings)
        raise BadForm("form-truncated" if cut_short else "form-malformed")
    return opening


def _refusal(error: multipart.MultipartError) -> BadForm:
    if isinstance(error, multipart.ParserLimitReached):
        return BadForm("form-header-too-large")
    return BadForm("form-not-utf8" if isinstance(error.__context__, UnicodeDecodeError) else "form-malformed")


def _events(read: Callable[[int], bytes], boundary: str) -> Iterator[Event]:
    """The events of the library, with parts read our way. Raises its errors beside ours."""
    parser = multipart.PushMultipartParser(
        boundary, max_header_size=MAX_HEADER_BYTES, max_header_count=MAX_HEADERS, header_charset="utf-8"
    )
    delimiter = b"\r\n--" + boundary.encode("ascii")
    parts = 0
    block = _opening(read, delimiter)
    while block:
        for event in parser.parse(block):
            if isinstance(event, multipart.MultipartSegment):
                parts += 1
                if parts > MAX_PARTS:
                    raise BadForm("form-too-many-parts")
                seams = _Seams(delimiter)
                yield _part(event.headerlist)
            elif event is None:
                yield None
            else:
                if _RUNS_OVER_BOUNDARIES:
                    seams.check(event)
                yield bytes(event)  # a copy with 1.x, which makes bytearrays; the same object with 2.x
        block = read(CHUNK)
    try:
        parser.close()
    except multipart.MultipartError:
        raise BadForm("form-truncated") from None


def events(read: Callable[[int], bytes], boundary: str) -> Iterator[Event]:
    """The form that `read` yields, block by block, until it yields b"".

    What follows the last boundary is read and thrown away; the caller bounds it, as it bounds the body. Raises BadForm,
    in the middle of a part perhaps: nothing that was made of a form is good before the iterator has ended. What `read`
    raises passes through.
    """
    try:
        yield from _events(read, boundary)
    except multipart.MultipartError as error:
        raise _refusal(error) from None
