"""Form data: UP-2, UP-3, UP-5, UP-7."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import Optional, Union

import multipart  # type: ignore[import-untyped]
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kcistorage_parts import formdata
from kcistorage_parts.formdata import MAX_HEADER_BYTES, MAX_HEADERS, MAX_PARTS, REASONS, BadForm, Part, boundary, events

PROPERTY = settings(deadline=None, max_examples=300)
B = "kci-boundary"
Whole = tuple[Part, bytes]  # a part and all its data


def reader(body: bytes, sizes: Optional[Iterator[int]] = None) -> Callable[[int], bytes]:
    """A `read` that hands out pieces of the given sizes, or all that is asked for."""
    source = io.BytesIO(body)
    return lambda most: source.read(min(most, next(sizes, most) if sizes else most))


def parts(body: Union[bytes, Callable[[int], bytes]], mark: str = B) -> list[Whole]:
    """The parts of a form, each with its data in one piece. Checks the order of events on the way."""
    found: list[Whole] = []
    inside = False
    for event in events(reader(body) if isinstance(body, bytes) else body, mark):
        if isinstance(event, Part):
            assert not inside
            inside = True
            found.append((event, b""))
        elif event is None:
            assert inside
            inside = False
        else:
            assert inside
            assert type(event) is bytes
            assert len(event) > 0
            found[-1] = (found[-1][0], found[-1][1] + event)
    assert not inside
    return found


def refusal(body: bytes, mark: str = B) -> str:
    with pytest.raises(BadForm) as refused:
        parts(body, mark)
    assert refused.value.text == str(refused.value) == REASONS[refused.value.reason]
    return refused.value.reason


def outcome(read: Callable[[int], bytes]) -> Optional[str]:
    """The reason for which a form is refused, None if it is taken."""
    try:
        parts(read)
    except BadForm as refused:
        return refused.reason
    return None


def form(*heads: str, data: bytes = b"x") -> bytes:
    """A form with one part for each head, given without its last line end."""
    return b"".join(f"--{B}\r\n{head}\r\n\r\n".encode() + data + b"\r\n" for head in heads) + f"--{B}--\r\n".encode()


def part_of(disposition: str) -> Part:
    ((part, data),) = parts(form(f"Content-Disposition: {disposition}"))
    assert data == b"x"
    return part


def test_reasons_are_words_with_a_line_each() -> None:
    assert all(re.fullmatch(r"form(-[a-z0-9]+)+", word) and "\n" not in text for word, text in REASONS.items())


# ---- The boundary


@pytest.mark.parametrize(
    ("content_type", "found"),
    [
        ("multipart/form-data; boundary=abc", "abc"),
        ("Multipart/Form-Data;BOUNDARY=abc", "abc"),
        ('multipart/form-data; boundary="a b:c"', "a b:c"),
        ("multipart/form-data; charset=utf-8; boundary=abc ; x=y", "abc"),
        ("multipart/form-data;boundary=abc;", "abc"),
        ("multipart/form-data \t;\tboundary=abc\t", "abc"),
        ("multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxk", "----WebKitFormBoundary7MA4YWxk"),
        (
            "multipart/form-data; boundary=---------------------------90519140415448433659",
            "-" * 27 + "90519140415448433659",
        ),
        ("multipart/form-data; boundary=------------------------3af66b296e2d723a", "-" * 24 + "3af66b296e2d723a"),
        ("multipart/form-data; boundary=0a5ca56fc28fb31aad6facc82eaf448f", "0a5ca56fc28fb31aad6facc82eaf448f"),
        ("multipart/form-data; boundary================0123456789==", "===============0123456789=="),
        ('multipart/form-data; boundary="5c1c8a4b-7f0e-4a4f-9c9e"', "5c1c8a4b-7f0e-4a4f-9c9e"),
        ("multipart/form-data; boundary=" + "x" * 200, "x" * 200),
    ],
)
def test_boundary(content_type: str, found: str) -> None:
    assert boundary(content_type) == found


@pytest.mark.parametrize(
    ("content_type", "reason"),
    [
        ("", "form-not-multipart"),
        ("application/octet-stream", "form-not-multipart"),
        ("application/x-www-form-urlencoded", "form-not-multipart"),
        ("multipart/mixed; boundary=abc", "form-not-multipart"),
        ("multipart/form-data-x; boundary=abc", "form-not-multipart"),
        ("boundary=abc; multipart/form-data", "form-not-multipart"),
        ("multipart/form-data", "form-no-boundary"),
        ("multipart/form-data;", "form-no-boundary"),
        ("multipart/form-data; charset=utf-8", "form-no-boundary"),
        ('multipart/form-data; boundary=""', "form-no-boundary"),
        ('multipart/form-data; boundary=" "', "form-no-boundary"),
        ('multipart/form-data; boundary="abc "', "form-no-boundary"),
        ("multipart/form-data; boundary=" + "x" * 201, "form-no-boundary"),
        ("multipart/form-data; boundary=ü", "form-no-boundary"),
        ("multipart/form-data; boundary=a\r\nb", "form-no-boundary"),
        ('multipart/form-data; boundary="a\nb"', "form-no-boundary"),
        ('multipart/form-data; boundary="abc\n"', "form-no-boundary"),
        ("multipart/form-data; boundary=a\0b", "form-no-boundary"),
        ("multipart/form-data; boundary=", "form-malformed"),
        ("multipart/form-data; boundary", "form-malformed"),
        ("multipart/form-data; boundary=a b", "form-malformed"),
        ("multipart/form-data; boundary=a; boundary=b", "form-malformed"),
        ("multipart/form-data; boundary=a, multipart/form-data; boundary=b", "form-malformed"),
        ('multipart/form-data; boundary="abc', "form-malformed"),
    ],
)
def test_no_boundary(content_type: str, reason: str) -> None:
    with pytest.raises(BadForm) as refused:
        boundary(content_type)
    assert refused.value.reason == reason


@PROPERTY
@given(st.text(max_size=40) | st.text(alphabet='boundary=";\\ \r\n', max_size=30).map("multipart/form-data;".__add__))
def test_any_content_type(content_type: str) -> None:
    """Invariant: a boundary is 1 to 200 printable ASCII characters not ending in a space, or there is a BadForm."""
    try:
        found = boundary(content_type)
    except BadForm:
        return
    assert found == found.rstrip(" ")
    assert 1 <= len(found) <= 200
    assert all(" " <= char <= "~" for char in found)


# ---- What clients send, byte for byte


def test_kernelci_core() -> None:
    """UP-1: requests with data= and files=: `path`, then `file0`, neither with a type."""
    mark = "0a5ca56fc28fb31aad6facc82eaf448f"
    body = (
        b'--0a5ca56fc28fb31aad6facc82eaf448f\r\nContent-Disposition: form-data; name="path"\r\n\r\na/b\r\n'
        b"--0a5ca56fc28fb31aad6facc82eaf448f\r\n"
        b'Content-Disposition: form-data; name="file0"; filename="sp ace%22q\\b-\xc3\xbc\xe2\x82\xac;x=1.txt"\r\n\r\n'
        b"hi\r\n--0a5ca56fc28fb31aad6facc82eaf448f--\r\n"
    )
    assert parts(body, mark) == [
        (Part("path", None, None), b"a/b"),
        (Part("file0", r"sp ace%22q\b-ü€;x=1.txt", None), b"hi"),
    ]


def test_dashboard_ingester() -> None:
    """UP-2: `file0` first, and a `path` that carries a filename."""
    mark = "c8e2f0dfbb28a193e45fda4a168fee51"
    body = (
        b'--c8e2f0dfbb28a193e45fda4a168fee51\r\nContent-Disposition: form-data; name="file0"; filename="x.bin"\r\n\r\n'
        b"hi\r\n--c8e2f0dfbb28a193e45fda4a168fee51\r\n"
        b'Content-Disposition: form-data; name="path"; filename="path"\r\n\r\na/b\r\n'
        b"--c8e2f0dfbb28a193e45fda4a168fee51--\r\n"
    )
    assert parts(body, mark) == [(Part("file0", "x.bin", None), b"hi"), (Part("path", "path", None), b"a/b")]


def test_curl() -> None:
    """curl from 7.81 on: a backslash as it is, at the end of a name too; a quote as %22."""
    mark = "------------------------cfc29750e5f979fa"
    body = (
        b'--------------------------cfc29750e5f979fa\r\nContent-Disposition: form-data; name="path"\r\n\r\na/b\r\n'
        b"--------------------------cfc29750e5f979fa\r\n"
        b'Content-Disposition: form-data; name="file0"; filename="a%22b\\c%22"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\nhi\r\n"
        b"--------------------------cfc29750e5f979fa\r\n"
        b'Content-Disposition: form-data; name="file1"; filename="end\\"\r\n'
        b"Content-Type: text/plain\r\n\r\nhi\r\n"
        b"--------------------------cfc29750e5f979fa--\r\n"
    )
    assert parts(body, mark) == [
        (Part("path", None, None), b"a/b"),
        (Part("file0", r"a%22b\c%22", "application/octet-stream"), b"hi"),
        (Part("file1", "end\\", "text/plain"), b"hi"),
    ]


def test_older_curl() -> None:
    """curl 7.74: a quote as \\", a backslash doubled, which cannot be told from two."""
    mark = "------------------------d74496d66958873e"
    body = (
        b"--------------------------d74496d66958873e\r\n"
        b'Content-Disposition: form-data; name="file0"; filename="say \\"hi\\"; x=\\"1\\".txt"\r\n'
        b"Content-Type: text/plain\r\n\r\nhi\r\n"
        b"--------------------------d74496d66958873e\r\n"
        b'Content-Disposition: form-data; name="file1"; filename="a\\\\b"\r\n\r\n\r\n'
        b"--------------------------d74496d66958873e--\r\n"
    )
    assert parts(body, mark) == [
        (Part("file0", 'say "hi"; x="1".txt', "text/plain"), b"hi"),
        (Part("file1", r"a\\b", None), b""),
    ]


def test_aiohttp() -> None:
    """labgrid agents: the type first; older releases add `filename*`, newer ones percent-encode `filename`."""
    mark = "a9fce53e6b59480980d4c41ebda8825d"
    body = (
        b"--a9fce53e6b59480980d4c41ebda8825d\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b'Content-Disposition: form-data; name="path"\r\n\r\np/q\r\n'
        b"--a9fce53e6b59480980d4c41ebda8825d\r\nContent-Type: application/octet-stream\r\n"
        b'Content-Disposition: form-data; name="file0"; filename="x.bin"; filename*=utf-8\'\'y%20z.bin\r\n\r\nhi\r\n'
        b"--a9fce53e6b59480980d4c41ebda8825d\r\nContent-Type: text/plain\r\n"
        b'Content-Disposition: form-data; name="file1"; filename="sp%20ace%2522q%5Cb-%C3%BC.txt"\r\n\r\nhi\r\n'
        b"--a9fce53e6b59480980d4c41ebda8825d--\r\n"
    )
    assert parts(body, mark) == [
        (Part("path", None, "text/plain; charset=utf-8"), b"p/q"),
        (Part("file0", "x.bin", "application/octet-stream"), b"hi"),
        (Part("file1", "sp%20ace%2522q%5Cb-%C3%BC.txt", "text/plain"), b"hi"),
    ]


def test_tarball_service() -> None:
    """An empty `path`: the key is the filename (UP-3)."""
    body = (
        b'--kci-boundary\r\nContent-Disposition: form-data; name="path"\r\n\r\n\r\n'
        b'--kci-boundary\r\nContent-Disposition: form-data; name="file0"; filename="linux/v6.1.tar.gz"\r\n\r\n'
        b"\x1f\x8b\r\n--kci-boundary--\r\n"
    )
    assert parts(body) == [(Part("path", None, None), b""), (Part("file0", "linux/v6.1.tar.gz", None), b"\x1f\x8b")]


def test_browsers() -> None:
    """Chromium and Firefox: raw UTF-8, a quote as %22, an empty file input; WebKit's boundary begins with dashes."""
    body = (
        b'------WebKitFormBoundaryX\r\nContent-Disposition: form-data; name="path"\r\n\r\n\xc3\xbc\r\n'
        b"------WebKitFormBoundaryX\r\n"
        b'Content-Disposition: form-data; name="file0"; filename="C:\\dir\\a%22\xc3\xbc"\r\n'
        b"Content-Type: text/plain\r\n\r\n\xff\r\n"
        b'------WebKitFormBoundaryX\r\nContent-Disposition: form-data; name="file1"; filename=""\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\r\n------WebKitFormBoundaryX--\r\n"
    )
    assert parts(body, "----WebKitFormBoundaryX") == [
        (Part("path", None, None), "ü".encode()),
        (Part("file0", r"C:\dir\a%22ü", "text/plain"), b"\xff"),
        (Part("file1", "", "application/octet-stream"), b""),
    ]


# ---- Content-Disposition


@pytest.mark.parametrize(
    ("disposition", "name", "filename"),
    [
        ('form-data; name="a"', "a", None),
        ("form-data; name=a", "a", None),
        ("form-data;name=a;filename=b.txt", "a", "b.txt"),
        ("Form-Data ; NAME=a ; FileName=b", "a", "b"),
        ('form-data; filename="b"; name="a"', "a", "b"),
        ('form-data; name = "a" ;\tfilename\t=\tb;', "a", "b"),
        ('form-data; name=""; filename=""', "", ""),
        ('form-data; name="a"; filename="dir/sub/b"', "a", "dir/sub/b"),
        ("form-data; name=a; filename=dir/b=c,d.txt", "a", "dir/b=c,d.txt"),
        ("form-data; name=a; filename=ü€.txt", "a", "ü€.txt"),
        ('form-data; name="a;b"; filename="c; filename=d"', "a;b", "c; filename=d"),
        ("form-data; name=a; filename*=utf-8''x; size=3; creation-date=\"x\"", "a", None),
        ("form-data; name=a; filename*=utf-8''x; filename=y", "a", "y"),
        ('form-data; name="a%22%0D%0Ab"', "a%22%0D%0Ab", None),
        (r'form-data; name="a\"b"; filename="\"c\""', 'a"b', '"c"'),
        (r'form-data; name="a\"; filename="b"', "a\\", "b"),
        (r'form-data; name="a"; filename="b\"', "a", "b\\"),
        (r'form-data; filename="b\"; name="a"', "a", "b\\"),
        (r'form-data; name="a"; filename="\\host\c"', "a", r"\\host\c"),
        ('form-data; name="a"; filename="\U0001f600\u202e"', "a", "\U0001f600\u202e"),
        ('form-data; name="a"; filename="' + "x" * 8000 + '"', "a", "x" * 8000),
    ],
)
def test_content_disposition(disposition: str, name: str, filename: Optional[str]) -> None:
    """UP-3: to the letter."""
    assert part_of(disposition) == Part(name, filename, None)


@pytest.mark.parametrize(
    ("disposition", "reason"),
    [
        ("form-data", "form-part-unnamed"),
        ("form-data;", "form-part-unnamed"),
        ('form-data; filename="b"', "form-part-unnamed"),
        ("form-data; name*=utf-8''a", "form-part-unnamed"),
        ("attachment; name=a", "form-malformed"),
        ("form-datax; name=a", "form-malformed"),
        ("name=a", "form-malformed"),
        ("", "form-malformed"),
        ("form-data; name", "form-malformed"),
        ("form-data; name=", "form-malformed"),
        ("form-data; =a", "form-malformed"),
        ("form-data; name=a b", "form-malformed"),
        ('form-data; name="a"b', "form-malformed"),
        ('form-data; name="a', "form-malformed"),
        ('form-data; name=a"b"', "form-malformed"),
        ('form-data; name="a", filename="b"', "form-malformed"),
        ("form-data; name=a; name=b", "form-malformed"),
        ('form-data; name=a; filename="b"; FILENAME=c', "form-malformed"),
        (r'form-data; name="a\"b', "form-malformed"),
        ('form-data; name="a\0"', "form-control-character"),
        ('form-data; name="a"; filename="b\nc"', "form-control-character"),
        ('form-data; name="a"; filename="b\rc"', "form-control-character"),
        ('form-data; name="a"; filename="b\tc"', "form-control-character"),
        ('form-data; name="a"; filename="b\x7f"', "form-control-character"),
        ('form-data; name="a"\r\nContent-Type: text/\x01plain', "form-control-character"),
        ('form-data; name="a"\r\nContent-Disposition: form-data; name="b"', "form-malformed"),
    ],
)
def test_content_disposition_that_is_none(disposition: str, reason: str) -> None:
    assert refusal(form(f"Content-Disposition: {disposition}")) == reason


def test_header_names_are_case_insensitive_and_others_ignored() -> None:
    head = 'X-Other: 1\r\ncontent-DISPOSITION: form-data; name="a"\r\ncontent-type: b/c\r\n'
    assert parts(form(head + "Content-Transfer-Encoding: binary")) == [(Part("a", None, "b/c"), b"x")]


def test_a_folded_header() -> None:
    """RFC 2046 5.1, RFC 5322 2.2.3: libraries for e-mail fold long lines."""
    assert part_of('form-data;\r\n name="a";\r\n\tfilename="b c"') == Part("a", "b c", None)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("X: y", "form-malformed"),
        ("Content-Disposition", "form-malformed"),
        ('Content-Disposition: form-data; name="a"\r\nno colon', "form-malformed"),
        ('Content-Disposition: form-data; name="a"\r\n: empty', "form-malformed"),
        (" folded: nothing", "form-malformed"),
    ],
)
def test_heads_that_are_none(head: str, reason: str) -> None:
    assert refusal(form(head)) == reason


@pytest.mark.parametrize("raw", [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"caf\xe9"])
def test_names_are_utf8(raw: bytes) -> None:
    """UP-3: Latin-1, an overlong slash, half a surrogate pair."""
    head = b'--kci-boundary\r\nContent-Disposition: form-data; name="file0"; filename="' + raw + b'"\r\n\r\n'
    assert refusal(head + b"x\r\n--kci-boundary--\r\n") == "form-not-utf8"


# ---- Limits


def test_header_size() -> None:
    def head(size: int) -> str:
        start = 'Content-Disposition: form-data; name="a"; filename="'
        return start + "x" * (size - len(start) - 1) + '"'

    assert parts(form(head(MAX_HEADER_BYTES)))
    assert refusal(form(head(MAX_HEADER_BYTES + 1))) == "form-header-too-large"
    endless = f"--{B}\r\nX: ".encode() + b"x" * 100_000
    assert refusal(endless) == "form-header-too-large"


def test_a_key_of_full_length_fits_twice() -> None:
    """1,024 bytes as `filename`, and again percent-encoded as `filename*`: what aiohttp sends."""
    name, encoded_name = "ü" * 512, "%C3%BC" * 512
    assert part_of(f"form-data; name=file0; filename={name}; filename*=utf-8''{encoded_name}").filename == name


def test_header_count() -> None:
    head = 'Content-Disposition: form-data; name="a"'
    assert parts(form("\r\n".join([head, *["X: y"] * (MAX_HEADERS - 1)])))
    assert refusal(form("\r\n".join([head, *["X: y"] * MAX_HEADERS]))) == "form-header-too-large"


def test_part_count() -> None:
    heads = ['Content-Disposition: form-data; name="a"'] * MAX_PARTS
    assert len(parts(form(*heads))) == MAX_PARTS
    assert refusal(form(*heads, heads[0])) == "form-too-many-parts"


def test_memory_and_data_blocks_are_bounded() -> None:
    """UP-7: never more than a chunk is asked for, nor given in one piece."""
    asked: list[int] = []
    body = io.BytesIO(form('Content-Disposition: form-data; name="file0"; filename="x"', data=b"\r\n--" * 1_000_000))

    def read(most: int) -> bytes:
        asked.append(most)
        return body.read(most)

    blocks = [event for event in events(read, B) if isinstance(event, bytes)]
    assert sum(map(len, blocks)) == 4_000_000
    assert set(asked) == {formdata.CHUNK}
    assert max(map(len, blocks)) <= formdata.CHUNK + len(B) + 8


HARD_TO_READ = [
    r'"',
    "\\",
    r"\"",
    ";",
    "a=",
    ";a=",
    ';a="',
    ';a="\\',
    ";a=b",
    "'",
    "=",
    'a"',
    " ",
    "\t",
    "; ",
    "; a=b",
    '; a="',
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("filler", HARD_TO_READ)
def test_header_lines_are_read_in_linear_time(filler: str) -> None:
    """Measured: 2 ms for such a line, and a second in quadratic time, which is more than the limit has room for."""
    body = form('Content-Disposition: form-data; name="a"; filename="' + filler * (8000 // len(filler)))
    for _ in range(200):
        outcome(reader(body))


# ---- The stream


FORM = form('Content-Disposition: form-data; name="a"')


def test_an_empty_form() -> None:
    assert parts(b"--kci-boundary--") == parts(b"--kci-boundary--\r\n") == parts(b"\r\n--kci-boundary--\r\n") == []


@pytest.mark.parametrize("epilogue", [b"", b"\r\n", b"garbage", b"\r\n--kci-boundary\r\nX", b"x" * 600_000])
def test_epilogue(epilogue: bytes) -> None:
    """RFC 2046 5.1.1: what follows the last boundary is read to the end and thrown away."""
    body = io.BytesIO(FORM[:-2] + epilogue)
    assert parts(body.read) == [(Part("a", None, None), b"x")]
    assert body.read() == b""
    assert parts(reader(FORM[:-2] + epilogue[:999], iter([1] * 2000))) == [(Part("a", None, None), b"x")]


def test_a_line_end_may_come_first() -> None:
    assert parts(b"\r\n" + FORM) == [(Part("a", None, None), b"x")]


@pytest.mark.parametrize(
    "body",
    [
        b"preamble\r\n" + FORM,
        b"\r\n\r\n" + FORM,
        b"\n" + FORM,
        b" " + FORM,
        FORM[1:],
        FORM.replace(b"\r\n", b"\n"),
        FORM.replace(b"kci", b"KCI"),
        b"path=a&file0=b",
        b"{}",
        b"\0" * 100_000,
    ],
)
def test_a_body_that_begins_with_something_else(body: bytes) -> None:
    assert refusal(body) == "form-malformed"


def test_truncated_anywhere() -> None:
    """UP-4: every beginning of a form that is not the whole of it."""
    assert {refusal(FORM[:length]) for length in range(len(FORM) - 2)} == {"form-truncated"}


@pytest.mark.parametrize("after", [b"-", b"x", b"\n", b" ", b"  \r\n", b"-\r\n", b"\r"])
@pytest.mark.parametrize("library_looks_itself", [True, False])
@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_line_that_goes_on_after_the_boundary(
    after: bytes, library_looks_itself: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 2046 5.1.1: it is a boundary all the same, so what follows is no data; refused, in blocks of any size."""
    if not library_looks_itself or multipart.__version__.startswith("1."):
        monkeypatch.setattr(formdata, "_RUNS_OVER_BOUNDARIES", True)
    body = form('Content-Disposition: form-data; name="a"', data=b"x\r\n--kci-boundary" + after + b"y" * 40)
    with pytest.raises(BadForm) as refused:
        parts(reader(body, iter([size] * len(body))))
    assert refused.value.reason == "form-malformed"


@pytest.mark.parametrize("looks", [True, False])
def test_what_only_resembles_a_boundary_is_data(looks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formdata, "_RUNS_OVER_BOUNDARIES", looks)
    data = (
        b"--kci-boundary--\r\nx--kci-boundary\r\n-kci-boundary\r\n--kci-boundar\r\n\n--kci-boundary--\r--kci-boundary\r"
    )
    body = form('Content-Disposition: form-data; name="a"', 'Content-Disposition: form-data; name="b"', data=data)
    for size in range(1, 60):
        assert parts(reader(body, iter([size] * len(body)))) == [(Part(name, None, None), data) for name in "ab"]


@PROPERTY
@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"B", b"x", b"\r\n--", b"-B"]), max_size=12))
def test_a_boundary_across_blocks_is_found(blocks: list[bytes]) -> None:
    """Invariant: data is refused if and only if it holds the delimiter, however it is cut."""
    seams, seen = formdata._Seams(b"\r\n--B"), b""
    for block in blocks:
        seen += block
        if b"\r\n--B" in seen:
            with pytest.raises(BadForm):
                seams.check(block)
            return
        seams.check(block)


def test_the_end_of_one_part_and_the_start_of_the_next_are_no_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formdata, "_RUNS_OVER_BOUNDARIES", True)
    head = '--kci-boundary\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
    body = f"{head}x\r\n--kci-\r\n{head}boundary\r\n--kci-boundary--".encode()
    assert [data for _, data in parts(body)] == [b"x\r\n--kci-", b"boundary"]


@pytest.mark.parametrize("good_blocks", [0, 1, 2])
def test_what_read_raises_passes_through(good_blocks: int) -> None:
    """The server's own words for a peer that is gone and for a body over its limit."""
    blocks = [FORM[:30], FORM[30:60]][:good_blocks]

    def read(_most: int) -> bytes:
        if not blocks:
            raise TimeoutError("the peer is silent")
        return blocks.pop(0)

    with pytest.raises(TimeoutError, match="the peer is silent"):
        parts(read)


names = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: not re.search(r"[\x00-\x1f\x7f]|\\\Z", text)
)
contents = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"-", b"--", b"\r\n--", b"\r\n--kci-boundar", b"--kci-boundary", b"y", b"\0"]
    )
    | st.binary(max_size=40),
    max_size=12,
).map(b"".join)
wholes = st.tuples(names, st.none() | names, st.none() | st.just("text/plain"), contents)


def quoted(text: str) -> str:
    return text.replace('"', '\\"')


def encoded(whole: tuple[str, Optional[str], Optional[str], bytes], filename_first: bool) -> bytes:
    name, filename, content_type, data = whole
    parameters = [f'name="{quoted(name)}"'] + ([] if filename is None else [f'filename="{quoted(filename)}"'])
    head = "; ".join(["Content-Disposition: form-data", *(reversed(parameters) if filename_first else parameters)])
    head += "" if content_type is None else f"\r\nContent-Type: {content_type}"
    return f"--{B}\r\n{head}\r\n\r\n".encode() + data + b"\r\n"


@PROPERTY
@given(st.lists(wholes, max_size=5), st.lists(st.integers(1, 80), max_size=60), st.booleans(), st.booleans())
@example([("file0", r"sp ace%22q\b-ü€;x=1.txt", None, b"")], [1] * 60, False, False)
@example([("a", '\\";x="', None, b"\r\n--kci-boundar\r\n--kci-boundar")], [3] * 60, True, True)
def test_round_trip(
    form_parts: list[tuple[str, Optional[str], Optional[str], bytes]], sizes: list[int], first: bool, check: bool
) -> None:
    """Invariant: any parts, encoded and cut into blocks of any sizes, come back as they were."""
    assume(all(b"\r\n--kci-boundary" not in b"\r\n" + data for *_, data in form_parts))
    body = b"".join(encoded(whole, first) for whole in form_parts) + f"--{B}--\r\n".encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formdata, "_RUNS_OVER_BOUNDARIES", check or formdata._RUNS_OVER_BOUNDARIES)
        assert parts(reader(body, iter(sizes))) == [(Part(*whole[:3]), whole[3]) for whole in form_parts]


pieces = st.sampled_from(
    [
        *(b"--kci-boundary", b"--kci-boundary\r\n", b"\r\n--kci-boundary\r\n", b"\r\n--kci-boundary--"),
        *(b'Content-Disposition: form-data; name="a"\r\n\r\n', b"Content-Disposition: form-data", b"; name="),
        *(b"Content-Length: 3\r\n", b"Content-Length: -1\r\n", b"Content-Type: x; charset=y\r\n"),
        *(b"\r\n", b"\r", b"\n", b'"', b"\\", b":", b" ", b"x", b"\xff", b"\0"),
    ]
)


@PROPERTY
@given(st.lists(pieces | st.binary(max_size=20), max_size=20).map(b"".join), st.lists(st.integers(1, 40), max_size=40))
def test_garbage(body: bytes, sizes: list[int]) -> None:
    """Invariant: garbage gives events in their order or a BadForm, never another exception, and always ends."""
    for garbage in (body, b"--kci-boundary\r\n" + body):
        assert outcome(reader(garbage, iter(sizes))) in {None, *REASONS}
