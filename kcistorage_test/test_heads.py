"""Request heads: RFC 9112 2 to 6, read strictly."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Optional

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kcistorage_parts import heads
from kcistorage_parts.heads import BadHead, Head

PROPERTY = settings(deadline=None, max_examples=300)
GOOD = b"GET /a/b?c=d HTTP/1.1\r\nHost: test\r\nAccept: */*\r\n\r\n"


def refused(call: Callable[[], object]) -> tuple[int, str]:
    """Status and reason of the refusal that this call must end with."""
    with pytest.raises(BadHead) as caught:
        call()
    assert caught.value.reason in heads.REASONS
    assert caught.value.text.isprintable()
    return caught.value.status, caught.value.reason


def parsed(*lines: str) -> Head:
    return heads.parse_head("\r\n".join(lines).encode("latin-1"))


def with_fields(*fields: str, minor: int = 1) -> Head:
    return parsed(f"POST /upload HTTP/1.{minor}", "Host: test", *fields)


def received(data: bytes, cuts: list[int]) -> tuple[Optional[bytes], bytes]:
    """What the wire makes of bytes that arrive in these pieces: (head, rest), or (None, all) when it waits for more."""
    seen = 0
    for cut in [*sorted(cuts), len(data)]:
        split = heads.take_head(data[:cut], seen)
        if split is not None:
            return split[0], split[1] + data[cut:]
        seen = cut
    return None, data


def verdict(data: bytes, cuts: list[int]) -> object:
    """The head in full and what follows it, None while it is incomplete, or that it is bad."""
    try:
        raw, rest = received(data, cuts)
        return None if raw is None else (heads.parse_head(raw), rest)
    except BadHead:
        return "bad"


# ---- Where a head ends


def test_a_head_ends_with_the_first_empty_line_and_the_rest_is_kept() -> None:
    assert heads.take_head(GOOD + GOOD) == (GOOD[:-4], GOOD)
    assert heads.take_head(GOOD + b"\r\n\r\n\x00") == (GOOD[:-4], b"\r\n\r\n\x00")


def test_one_empty_line_before_a_request_is_ignored() -> None:
    """RFC 9112 2.2: some clients end a form with one line end too many."""
    assert heads.take_head(b"\r\n" + GOOD) == (GOOD[:-4], b"")
    assert refused(lambda: heads.take_head(b"\r\n\r\n" + GOOD)) == (400, "head-malformed")


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_a_beginning_is_waited_for(size: int) -> None:
    assert heads.take_head(GOOD[:size]) is None
    assert heads.take_head((b"\r\n" + GOOD)[:size]) is None


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01", b"\x00", b" GET / HTTP/1.1\r\n", b"\n", b"\r\r", b"\r\n\n", b"\r\n\r", b"\xffGET"],
    ids=["TLS", "NUL", "space", "LF", "CR CR", "CR LF LF", "second empty line", "byte order"],
)
def test_what_cannot_be_a_method_is_refused_at_its_first_byte(data: bytes) -> None:
    assert refused(lambda: heads.take_head(data)) == (400, "head-malformed")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nHost: test\n", b"GET / HTTP/1.1\r\n\n"])
def test_a_bare_line_feed_is_refused_at_once(data: bytes) -> None:
    """Else a client that ends its lines so would wait for an answer until the time-out."""
    assert refused(lambda: heads.take_head(data)) == (400, "head-malformed")


def test_a_line_end_that_arrives_in_two_pieces_is_no_bare_line_feed() -> None:
    cut = GOOD.index(b"\n")
    assert heads.take_head(GOOD[:cut]) is None
    assert heads.take_head(GOOD[: cut + 1], cut) is None


def padded(size: int) -> bytes:
    """A good head of `size` bytes, without its empty line."""
    start = b"GET / HTTP/1.1\r\nHost: test\r\nPad: "
    return start + b"x" * (size - len(start))


@pytest.mark.parametrize("cut", range(4))
def test_a_head_of_64_kib_passes_however_its_end_is_cut(cut: int) -> None:
    whole = padded(heads.MAX_HEAD) + b"\r\n\r\n"
    assert received(whole + b"rest", [len(whole) - cut]) == (whole[:-4], b"rest")
    assert received(b"\r\n" + whole, [len(whole) + 2 - cut]) == (whole[:-4], b"")


@pytest.mark.parametrize("tail", [b"\r\n\r\n", b"", b"x" * 1_000_000])
def test_a_larger_head_is_431(tail: bytes) -> None:
    data = padded(heads.MAX_HEAD + 1) + tail + b"\r\n\r\n"
    assert refused(lambda: heads.take_head(data)) == (431, "head-too-large")
    assert refused(lambda: heads.take_head(padded(heads.MAX_HEAD + 4))) == (431, "head-too-large")


def test_a_request_line_without_end_is_414_before_it_fills_the_buffer() -> None:
    line = b"GET /" + b"a" * (heads.MAX_REQUEST_LINE - 5)
    assert heads.take_head(line + b"\r") is None
    assert refused(lambda: heads.take_head(line + b"a\r")) == (414, "target-too-long")


def test_a_method_without_end_is_refused_in_one_piece_as_in_many() -> None:
    data = b"G" * 9_000 + b" / HTTP/1.1\r\nHost: test\r\n\r\n"
    assert refused(lambda: heads.take_head(data[:8_999])) == (414, "target-too-long")
    assert refused(lambda: heads.parse_head(data[:-4])) == (414, "target-too-long")


SIZES = (
    heads.MAX_TARGET + 18,
    heads.MAX_TARGET + 19,
    heads.MAX_REQUEST_LINE + 1,
    heads.MAX_HEAD,
    heads.MAX_HEAD + 1,
    heads.MAX_HEAD + 2,
)


@st.composite
def near_heads(draw: st.DrawFn) -> bytes:
    """Heads that are good, nearly good, or of a size around one of the limits."""
    lines = draw(
        st.lists(
            st.sampled_from(
                [
                    b"Host: test",
                    b"A:b",
                    b"Fold: a\r\n b",
                    b"LF: a\nb",
                    b"CR: a\rb",
                    b" space: a",
                    b"x" * 70_000,
                    b"\n",
                    b"",
                ]
            ),
            max_size=5,
        )
    )
    target = b"/" + b"a" * draw(st.sampled_from((0, 5, *SIZES)))
    start = draw(st.sampled_from([b"", b"\r\n", b"\r\n\r\n", b"\n", b"\r"])) + b"GET " + target + b" HTTP/1.1"
    head = b"\r\n".join([start, *draw(st.sampled_from([[], [b"Host: test"]])), *lines])
    size = draw(st.sampled_from((0, *SIZES)))
    head = head + b"\r\nPad: " + b"x" * max(0, size - len(head) - 7) if size else head
    return head + draw(st.sampled_from([b"\r\n\r\n", b"\r\n\r\nrest", b"\n\n", b"\r\n", b""]))


@PROPERTY
@given(data=near_heads(), chance=st.randoms(use_true_random=False))
def test_where_bytes_are_cut_decides_nothing(data: bytes, chance: random.Random) -> None:
    """Invariant: good stays good and bad stays bad, with the same head and the same rest, in one piece or in many."""
    near_the_end = [max(0, len(data) - chance.randint(0, 12)) for _ in range(3)]
    cuts = [*near_the_end, *(chance.randint(0, len(data)) for _ in range(4))]
    whole, pieces = verdict(data, []), verdict(data, cuts)
    assert pieces == whole


def read_in_full(raw: bytes) -> None:
    """Asks of a head all that the server does; lets nothing pass but BadHead."""
    refusal = None
    try:
        head = heads.parse_head(raw)
        length = heads.body_length(head)
        heads.expects_continue(head)
    except BadHead as error:
        refusal = error
    if refusal is not None:
        assert refusal.status in (400, 414, 417, 431)
        assert refusal.reason in heads.REASONS
        assert refusal.text.isascii()
        assert refusal.text.isprintable()
        return
    assert heads.keeps_alive(head) in (True, False)
    assert length is None or 0 <= length < 10**18
    assert head.path.startswith("/")
    assert not any(set(value) & set("\r\n\0") for value in (head.method, head.target, *head.fields.values()))


@PROPERTY
@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=5))
@example(data=b"", cuts=[])
def test_any_bytes_are_a_head_or_a_refusal(data: bytes, cuts: list[int]) -> None:
    """Invariant: nothing but BadHead is ever raised, here and in what is read from the head afterwards."""
    read_in_full(data)
    assert verdict(data, [min(cut, len(data)) for cut in cuts]) == verdict(data, [])


PIECES = st.one_of(
    st.sampled_from(["GET", "POST", " ", "/", "/a?b", "*", "http://h/", "HTTP/1.1", "HTTP/1.0"]),
    st.sampled_from(["\r\n", "\n", "\r", "\0", "\t", ":", ",", "5", "٣", "é", "%00", "#", "[::1]"]),
    st.sampled_from(["Host", "Host: h", "Content-Length: ", "Connection", "close", "keep-alive"]),
    st.sampled_from(["Transfer-Encoding: chunked", "Expect: 100-continue"]),
)


@settings(deadline=None, max_examples=1_000)
@given(pieces=st.lists(PIECES, max_size=25))
def test_any_shuffle_of_the_grammar_is_a_head_or_a_refusal(pieces: list[str]) -> None:
    read_in_full("".join(pieces).encode())


def seconds(call: Callable[[], object]) -> float:
    """Processor time of this thread, which other work on the machine does not lengthen."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def byte_by_byte(data: bytes) -> None:
    for size in range(len(data)):
        assert heads.take_head(data[:size], max(0, size - 1)) is None


@pytest.mark.parametrize("filler", [b"x", b"\r\n:", b"a:\r\n", b" "])
def test_a_head_that_comes_byte_by_byte_costs_a_constant_for_each(filler: bytes) -> None:
    """Invariant: the work is linear. Measured: 0.3 s; searching all of it again each time took 60 s."""
    data = b"GET / HTTP/1.1\r\nA: " + filler * ((heads.MAX_HEAD - 100) // len(filler))
    assert seconds(lambda: byte_by_byte(data)) < 3


@pytest.mark.parametrize(
    "raw",
    [
        b"GET " + b"/" * 8_000 + b" HTTP/1.1\r\nHost: " + b":" * 50_000,
        b"GET http://" + b"h" * 8_000 + b" HTTP/1.1\r\nHost: " + b"[" * 50_000,
        b"GET / HTTP/1.1\r\n" + b"\r\n".join([b"A: " + b" " * 600 + b"x"] * 100),
        b"GET / HTTP/1.1\r\nHost: " + b"a" * 60_000 + b"@",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: " + b"," * 60_000,
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"1" * 60_000,
        b"\r\n" * 32_000,
        b"G" * 60_000,
    ],
    ids=["slashes", "brackets", "spaces", "host", "commas", "digits", "lines", "method"],
)
def test_no_head_makes_the_patterns_backtrack(raw: bytes) -> None:
    """Invariant: 64 KiB of anything are read in milliseconds."""
    assert seconds(lambda: read_in_full(raw)) < 1


# ---- The request line (RFC 9112 3)


def test_a_request_line_in_full() -> None:
    head = parsed("GET /a/b?c=d?e HTTP/1.1", "Host: test")
    assert head == Head("GET", "/a/b?c=d?e", "/a/b", "c=d?e", 1, {"host": "test"})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /\r HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.",
        "GET / HTTP/1.10",
        "GET / HTTP/11",
        "GET / HTTP/1,1",
        "GET / HTTP/-1.1",
        "G\xc9T / HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / HTTP/1.1\nHost: test",
        "GET a/b HTTP/1.1",
        "GET ftp://test/ HTTP/1.1",
        "GET http:/// HTTP/1.1",
        "GET http://?a HTTP/1.1",
        "CONNECT test:443 HTTP/1.1",
    ],
)
def test_a_request_line_that_is_none_is_400(line: str) -> None:
    assert refused(lambda: parsed(line, "Host: test")) == (400, "head-malformed")


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/0.9", "HTTP/3.0"])
def test_another_major_version_is_refused(version: str) -> None:
    assert refused(lambda: parsed(f"GET / {version}", "Host: test")) == (400, "version-unsupported")


def test_the_preface_of_http_2_is_refused() -> None:
    split = heads.take_head(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert split is not None
    assert refused(lambda: heads.parse_head(split[0])) == (400, "version-unsupported")


def test_a_later_minor_version_is_answered_as_1_1() -> None:
    """RFC 9110 2.5: a server answers with the highest version it knows."""
    assert parsed("GET / HTTP/1.9", "Host: test").minor == 1


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("//a//b", "//a//b", ""),
        ("/a?", "/a", ""),
        ("/%2e%2e/x%00", "/%2e%2e/x%00", ""),
        ("/ü€".encode().decode("latin-1"), "/ü€".encode().decode("latin-1"), ""),
        ("*", "/*", ""),
        ("http://test/a?b", "/a", "b"),
        ("HTTPS://user@test:1/a", "/a", ""),
        ("http://test", "/", ""),
        ("http://test?b", "/", "b"),
    ],
)
def test_forms_of_the_target(target: str, path: str, query: str) -> None:
    """RFC 9112 3.2: origin, asterisk and absolute form; decoding is for those who know what a path means."""
    head = parsed(f"GET {target} HTTP/1.1", "Host: test")
    assert (head.target, head.path, head.query) == (target, path, query)


def test_a_target_of_8_kib_passes_and_a_longer_one_is_414() -> None:
    assert parsed(f"GET /{'a' * (heads.MAX_TARGET - 1)} HTTP/1.1", "Host: test").minor == 1
    longer = f"GET /{'a' * heads.MAX_TARGET} HTTP/1.1"
    assert refused(lambda: parsed(longer, "Host: test")) == (414, "target-too-long")


# ---- Fields (RFC 9112 5)


def test_names_ignore_case_values_lose_their_white_space_and_repeated_fields_are_joined() -> None:
    head = parsed("GET / HTTP/1.1", "HOST:test", "A: \t b c\t ", "a:d", "Empty:", "X: é")
    assert head.fields == {"host": "test", "a": "b c, d", "empty": "", "x": "é"}


@pytest.mark.parametrize(
    "line",
    [
        "Name : value",
        "Name\t: value",
        " folded",
        "\tfolded: value",
        ": value",
        "no colon",
        "",
        "N\xe4me: value",
        "Na me: value",
        "Na(me): value",
        "Name: a\0b",
        "Name: a\x01b",
        "Name: a\x7fb",
        "Name: a\rb",
        "Name: a\nb",
        "Name: a\n b",
        "Name\0: value",
    ],
)
def test_a_field_that_two_readers_may_take_differently_is_400(line: str) -> None:
    """RFC 9112 5.1, 5.2, 2.2: obs-fold, space before the colon, NUL, bare CR and LF."""
    assert refused(lambda: with_fields(line)) == (400, "head-malformed")
    assert refused(lambda: parsed("GET / HTTP/1.1", line, "Host: test")) == (400, "head-malformed")


def test_100_fields_pass_and_101_are_431() -> None:
    fields = [f"A{number}: b" for number in range(heads.MAX_FIELDS - 1)]
    assert len(with_fields(*fields).fields) == heads.MAX_FIELDS
    assert refused(lambda: with_fields(*fields, "One: more")) == (431, "too-many-fields")


TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=10)
NAMES = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=6)


@PROPERTY
@given(fields=st.lists(st.tuples(NAMES, TEXT), max_size=20))
def test_every_good_field_arrives(fields: list[tuple[str, str]]) -> None:
    """Invariant: parsing gives what was written, joined by name, in its order."""
    expected: dict[str, list[str]] = {}
    for name, value in fields:
        expected.setdefault(name.lower(), []).append(value)
    found = heads.parse_fields([f"{name}: {value}" for name, value in fields])
    assert found == {name: ", ".join(values) for name, values in expected.items()}


@pytest.mark.parametrize("host", ["test", "test:3000", "", "[::1]", "[::1]:80", "127.0.0.1:", "a_b-c.d~e", "%C3%BC"])
def test_hosts(host: str) -> None:
    assert parsed("GET / HTTP/1.1", f"Host: {host}").fields["host"] == host


@pytest.mark.parametrize("host", ["a, b", "a/b", "user@host", "a b", "[::1", "::1", "a:b", "h:80:80", "a\\b", "?", "é"])
def test_a_host_that_is_none_is_400(host: str) -> None:
    """RFC 9112 3.2."""
    assert refused(lambda: parsed("GET / HTTP/1.1", f"Host: {host}")) == (400, "head-malformed")
    assert refused(lambda: parsed("GET / HTTP/1.0", f"Host: {host}")) == (400, "head-malformed")


def test_http_1_1_needs_one_host_and_http_1_0_none() -> None:
    """RFC 9112 3.2."""
    assert refused(lambda: parsed("GET / HTTP/1.1")) == (400, "head-malformed")
    assert refused(lambda: parsed("GET / HTTP/1.1", "Host: a", "Host: a")) == (400, "head-malformed")
    assert parsed("GET / HTTP/1.0").fields == {}


# ---- The body (RFC 9112 6)


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([], 0),
        (["Content-Length: 0"], 0),
        (["Content-Length: 5"], 5),
        (["content-length:\t007 "], 7),
        (["Content-Length: " + "9" * 18], 10**18 - 1),
        (["Transfer-Encoding: chunked"], None),
        (["Transfer-Encoding: Chunked"], None),
    ],
)
def test_the_length_of_a_body(fields: list[str], length: Optional[int]) -> None:
    assert heads.body_length(with_fields(*fields)) == length


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 5"],
        ["Content-Length: +5"],
        ["Content-Length: -5"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5.0"],
        ["Content-Length: 5 5"],
        ["Content-Length: 1_0"],
        ["Content-Length:"],
        ["Content-Length: five"],
        ["Content-Length: \xb2"],
        ["Content-Length: " + "9" * 19],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 0"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked;q=1"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: \xa0chunked"],
        ["Transfer-Encoding:"],
    ],
)
def test_a_body_whose_end_two_readers_may_see_differently_is_400(fields: list[str]) -> None:
    """RFC 9112 6.1 to 6.3: this is what requests are smuggled with."""
    assert refused(lambda: heads.body_length(with_fields(*fields))) == (400, "head-malformed")


def test_a_chunked_body_in_http_1_0_is_400() -> None:
    """RFC 9112 6.1: faulty framing, whatever the sender meant."""
    head = with_fields("Transfer-Encoding: chunked", minor=0)
    assert refused(lambda: heads.body_length(head)) == (400, "head-malformed")


# ---- Expectations and persistence


@pytest.mark.parametrize(
    ("fields", "minor", "expected"),
    [
        ([], 1, False),
        (["Expect: 100-continue"], 1, True),
        (["Expect: 100-Continue"], 1, True),
        (["Expect: 100-continue"], 0, False),
        (["Expect: tea"], 0, False),
    ],
)
def test_who_waits_for_100(fields: list[str], minor: int, expected: bool) -> None:
    """RFC 9110 10.1.1: an expectation in HTTP/1.0 is ignored."""
    assert heads.expects_continue(with_fields(*fields, minor=minor)) is expected


@pytest.mark.parametrize("expectation", ["200-ok", "", "100-continue, tea", "100-continue=1"])
def test_another_expectation_is_417(expectation: str) -> None:
    head = with_fields(f"Expect: {expectation}")
    assert refused(lambda: heads.expects_continue(head)) == (417, "expectation-unknown")


@pytest.mark.parametrize(
    ("fields", "minor", "kept"),
    [
        ([], 1, True),
        ([], 0, False),
        (["Connection: close"], 1, False),
        (["Connection: Close"], 1, False),
        (["Connection: keep-alive, close"], 1, False),
        (["Connection: keep-alive", "Connection: close"], 1, False),
        (["Connection: x ,\tclose"], 1, False),
        (["Connection: closed"], 1, True),
        (["Connection: upgrade"], 1, True),
        (["Connection: Keep-Alive"], 0, True),
        (["Connection: upgrade"], 0, False),
        (["Connection: keep-alive, close"], 0, False),
    ],
)
def test_persistence(fields: list[str], minor: int, kept: bool) -> None:
    """RFC 9112 9.3."""
    assert heads.keeps_alive(with_fields(*fields, minor=minor)) is kept
