"""Storage keys and the names derived from them: UP-3, UP-4, UP-6, DL-1, DL-2, DL-3."""

from __future__ import annotations

import ast
import copy
import inspect
import pathlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Collection
from typing import Optional, Union
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kcistorage_parts import names
from kcistorage_parts.names import (
    REASONS,
    BadKey,
    content_disposition,
    content_type,
    is_key,
    is_reserved,
    requested_key,
    storage_key,
    valid_media_type,
)

PROPERTY = settings(deadline=None, max_examples=200)
RESERVED = (".metadata/", "metrics", "upload", "v1/list", "v1/file", "favicon.ico")
ODD_NAME = r"sp ace%22q\b-ü€;x=1.txt"

# Text dense in what the rules turn on, next to text of any kind and to segments around the length limits.
dense = st.text(alphabet="ab.//..%2e\\+=~;, \"'ü€😀\x00\n\x1f\x7f\x80\x9f\xa0\ud800\udfff\u2028", max_size=24)
edges = st.builds(
    lambda unit, count: unit * count, st.sampled_from("aü€😀"), st.sampled_from([63, 64, 85, 86, 255, 256])
)
segment = st.one_of(st.sampled_from(["", ".", "..", "...", "a..b", ".hidden", "v1", "list", ".metadata"]), dense, edges)
anything = st.one_of(dense, st.text(max_size=24), st.lists(segment, max_size=8).map("/".join))
wire_path = st.one_of(
    st.text(alphabet="//aB.0-%2Ff5cE€u\xc3\xbc\xff+\x00\x7f ~", max_size=24),
    st.lists(st.sampled_from(["/", "a", ".", "..", "%2e", "%2F", "%", "%00", "%zz", "%C3%BC", "%c3", "+", "b"])).map(
        "".join
    ),
    anything.map(lambda text: "/" + quote(text, errors="surrogatepass")),
)


def reason_of(path: str, filename: str, reserved: Collection[str] = frozenset()) -> Optional[str]:
    """The reason for which the key is refused, None where it is not."""
    try:
        storage_key(path, filename, reserved)
    except BadKey as refusal:
        return refusal.reason
    return None


def key_or_refusal(path: str, filename: str) -> Union[str, BadKey]:
    try:
        return storage_key(path, filename)
    except BadKey as refusal:
        return refusal


def model_segments(text: str) -> tuple[list[str], bool]:
    """The segments of a path, read one character at a time, and whether a real one ends it."""
    segments: list[str] = []
    current = ""
    for character in text + "/":
        if character != "/":
            current += character
            continue
        ends_in_a_name = current not in ("", ".")
        if ends_in_a_name:
            segments.append(current)
        current = ""
    return segments, ends_in_a_name


def utf8_size(text: str) -> int:
    """Bytes of the text in UTF-8, counted from the code points, three for a lone surrogate."""
    return sum(1 + (ord(c) > 0x7F) + (ord(c) > 0x7FF) + (ord(c) > 0xFFFF) for c in text)


def model_faults(path: str, filename: str) -> tuple[set[str], str]:
    """Every reason for which a key may be refused, and the key, which is good if there is none."""
    segments, _ = model_segments(path + "/" + filename)
    key = "/".join(segments)
    faults = set()
    if not model_segments(filename)[1]:
        faults.add("key-no-filename")
    if any(segment == ".." for segment in segments):
        faults.add("key-dotdot")
    if any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in key):
        faults.add("key-control")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in key):
        faults.add("key-not-utf8")
    if any(utf8_size(segment) > 255 for segment in segments):
        faults.add("key-segment-long")
    if utf8_size(key) > 1024:
        faults.add("key-long")
    return faults, key


def model_percent_decoded(raw_path: str) -> bytes:
    """Percent-decoding of a path, one character at a time; a malformed escape stays as it is."""
    hexadecimal = "0123456789abcdefABCDEF"
    octets = bytearray()
    at = 0
    while at < len(raw_path):
        escape = raw_path[at : at + 3]
        if len(escape) == 3 and escape[0] == "%" and escape[1] in hexadecimal and escape[2] in hexadecimal:
            octets.append(int(escape[1:], 16))
            at += 3
        else:
            octets.append(ord(raw_path[at]))
            at += 1
    return bytes(octets)


def model_requested(raw_path: str) -> Optional[str]:
    if any(ord(character) > 0xFF for character in raw_path):
        return None
    octets = model_percent_decoded(raw_path)
    text = octets.decode("utf-8", errors="replace")
    if text.encode("utf-8") != octets:
        return None
    faults, key = model_faults("", text)
    return None if faults else key


# ---- UP-3: the key from the form fields


@pytest.mark.parametrize(
    ("path", "filename", "key"),
    [
        ("artifacts/build-123", "output.tar.xz", "artifacts/build-123/output.tar.xz"),
        ("testfolder", "local_folder/local_file", "testfolder/local_folder/local_file"),
        ("", "a.txt", "a.txt"),
        ("/", "a.txt", "a.txt"),
        ("/a/b/", "c", "a/b/c"),
        ("//a///b//", "//c//d", "a/b/c/d"),
        ("./a/./b/.", "./c", "a/b/c"),
        (".", "c", "c"),
        ("a..b", "..c", "a..b/..c"),
        ("a", "...", "a/..."),
        ("a", ".config", "a/.config"),
        ("x+y=z~;,", "%2e%2e", "x+y=z~;,/%2e%2e"),
        ("a%2Fb", "100%", "a%2Fb/100%"),
        ("dir", ODD_NAME, "dir/" + ODD_NAME),
        (r"..\..", r"a\..\b", r"..\../a\..\b"),
        (" lead", "trail ", " lead/trail "),
        ("quo\"te'", "a\xa0b\u2028c", "quo\"te'/a\xa0b\u2028c"),
        ("ünï", "€😀", "ünï/€😀"),
        ("u\u0308", "\u00fc", "u\u0308/\u00fc"),
        ("é" * 127, "x" * 255, "é" * 127 + "/" + "x" * 255),
        ("/".join(["p" * 203] * 4), "f" * 208, "/".join(["p" * 203] * 4) + "/" + "f" * 208),
    ],
)
def test_form_fields_make_a_key(path: str, filename: str, key: str) -> None:
    """UP-3: the key is path and filename without empty and "." segments, and nothing else is special."""
    assert storage_key(path, filename) == key


@pytest.mark.parametrize(
    ("path", "filename", "reason"),
    [
        ("a", "", "key-no-filename"),
        ("", "", "key-no-filename"),
        ("a", "b/", "key-no-filename"),
        ("a", "b/.", "key-no-filename"),
        ("a", "././/", "key-no-filename"),
        ("a", "/", "key-no-filename"),
        ("..", "a", "key-dotdot"),
        ("a/../b", "c", "key-dotdot"),
        ("a", "..", "key-dotdot"),
        ("a", "../../etc/passwd", "key-dotdot"),
        ("a", "b\0c", "key-control"),
        ("a\nb", "c", "key-control"),
        ("a", "\x1f", "key-control"),
        ("a", "\x7f", "key-control"),
        ("a", "\x80", "key-control"),
        ("a", "\x9f", "key-control"),
        ("a", "\ud800", "key-not-utf8"),
        ("a", "caf\udce9", "key-not-utf8"),
        ("a", "x" * 256, "key-segment-long"),
        ("é" * 128, "x", "key-segment-long"),
        ("/".join(["p" * 203] * 4), "f" * 209, "key-long"),
        ("/".join(["é" * 100] * 5), "f" * 20, "key-long"),
    ],
)
def test_what_no_key_can_be_is_refused(path: str, filename: str, reason: str) -> None:
    """UP-4: each kind of bad key has a reason of its own."""
    assert reason_of(path, filename) == reason


@pytest.mark.parametrize(
    ("path", "filename", "refused"),
    [
        ("", "metrics", True),
        ("/", "./metrics", True),
        ("metrics", "x", False),
        ("", "metrics2", False),
        ("v1", "list", True),
        ("", "v1/list", True),
        ("v1/list", "x", False),
        ("", "list", False),
        ("", ".metadata", True),
        (".metadata", "x", True),
        ("//.metadata/./a", "b/c", True),
        ("", ".metadata2", False),
        ("a", ".metadata", False),
        ("", "favicon.ico", True),
        ("", "Favicon.ico", False),
    ],
)
def test_reserved_and_shadowed_keys_are_refused(path: str, filename: str, refused: bool) -> None:
    """UP-4: an entry "x/" keeps x and all under it, an entry "x" only x."""
    assert reason_of(path, filename, RESERVED) == ("key-reserved" if refused else None)
    assert reason_of(path, filename, frozenset(RESERVED)) == ("key-reserved" if refused else None)


@PROPERTY
@given(st.lists(st.sampled_from(["a", "b", "a/b", "b/a/b"]), min_size=1, max_size=3).map("/".join), st.data())
def test_reserved_entries(key: str, data: st.DataObject) -> None:
    """Invariant: an entry ending in "/" covers that name and all under it, any other only itself (UP-4)."""
    entries = data.draw(st.lists(st.sampled_from(["a", "a/", "b/", "a/b", "a/b/", "b/a/b/", "/", ""])))
    covered = any(entry.endswith("/") and (key + "/").startswith(entry) for entry in entries)
    assert is_reserved(key, entries) == (covered or key in entries)


@PROPERTY
@given(anything, anything)
@example("/".join(["p" * 203] * 4), "f" * 209)
@example("", "é" * 128)
def test_keys_by_the_model(path: str, filename: str) -> None:
    """Invariant: a key is what reading the fields by the character gives, or is refused for a true reason (UP-4)."""
    faults, key = model_faults(path, filename)
    result = key_or_refusal(path, filename)
    if faults:
        assert isinstance(result, BadKey)
        assert result.reason in faults
    else:
        assert result == key


@PROPERTY
@given(anything, anything)
def test_a_key_is_its_own_key(path: str, filename: str) -> None:
    """Invariant: a key as filename, or cut into path and filename, gives that same key (UP-3)."""
    key = key_or_refusal(path, filename)
    if isinstance(key, BadKey):
        return
    assert storage_key("", key) == key
    folder, _, name = key.rpartition("/")
    assert storage_key(folder, name) == key


@PROPERTY
@given(anything, anything)
def test_a_refusal_says_why_in_one_line(path: str, filename: str) -> None:
    """Invariant: a refusal has a documented reason and one line of printable ASCII (UP-4)."""
    refusal = key_or_refusal(path, filename)
    if isinstance(refusal, str):
        return
    assert refusal.reason in REASONS
    assert re.fullmatch("[ -~]{10,100}", refusal.text)


def test_a_refusal_is_a_value_error_that_reads_as_its_text() -> None:
    refusal = BadKey("key-dotdot", 'The key has a ".." segment')
    assert isinstance(refusal, ValueError)
    assert str(refusal) == refusal.text == 'The key has a ".." segment'
    assert copy.copy(refusal).reason == "key-dotdot"


def test_reasons_lists_exactly_the_reasons_that_are_given() -> None:
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(names))) if isinstance(node, ast.Call)]
    refusals = [call for call in calls if ast.unparse(call.func) == BadKey.__name__]
    given_reasons = [ast.literal_eval(call.args[0]) for call in refusals]
    assert sorted(given_reasons) == sorted(REASONS), "each reason is given in one place and documented"
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)+", reason) for reason in REASONS)
    assert all(meaning.endswith(".") for meaning in REASONS.values())


def test_an_upload_without_filename_reads_as_clients_know_it() -> None:
    """UP-4: the text for a file without a name is the one of the protocol page."""
    with pytest.raises(BadKey, match=r"^No filename provided$"):
        storage_key("a", "")


# ---- DL-1, DL-3: the key from a request target


@pytest.mark.parametrize(
    ("raw_path", "key"),
    [
        ("/a/b/file.bin", "a/b/file.bin"),
        ("/a", "a"),
        ("a/b", "a/b"),
        ("//a///b", "a/b"),
        ("/production//build/x", "production/build/x"),
        ("/./a/././b", "a/b"),
        ("/a+b", "a+b"),
        ("/a%2Bb", "a+b"),
        ("/a=b,c;d~e", "a=b,c;d~e"),
        ("/a%3Db", "a=b"),
        ("/a%20b", "a b"),
        ("/%20a%20", " a "),
        ("/a%2Fb%2f%2Fc", "a/b/c"),
        ("/a%252e", "a%2e"),
        ("/a%2520b", "a%20b"),
        ("/100%", "100%"),
        ("/100%zz", "100%zz"),
        ("/%C3%BC", "ü"),
        ("/\xc3\xbc", "ü"),
        ("/%e2%82%AC\xe2\x82\xac", "€€"),
        ("/%F0%9F%98%80", "😀"),
        ("/sp%20ace%2522q%5Cb-%C3%BC%E2%82%AC;x=1.txt", ODD_NAME),
        ("/sp%20ace%2522q\\b-\xc3\xbc\xe2\x82\xac%3Bx%3D1.txt", ODD_NAME),
        ("/a?b#c", "a?b#c"),
        ("/a%3Fb%23c", "a?b#c"),
        ("/.config/..a/a..b/...", ".config/..a/a..b/..."),
        ("/" + "x" * 255, "x" * 255),
        ("/" + "/".join(["p" * 203] * 4 + ["f" * 208]), "/".join(["p" * 203] * 4 + ["f" * 208])),
        ("/" * 1000 + "/".join(["%70" * 203] * 4 + ["f" * 208]), "/".join(["p" * 203] * 4 + ["f" * 208])),
    ],
)
def test_request_targets_name_keys(raw_path: str, key: str) -> None:
    """DL-1: decoded once, "+" kept, repeated "/" collapsed."""
    assert requested_key(raw_path) == key


@pytest.mark.parametrize(
    "raw_path",
    [
        "",
        "/",
        "//",
        "/.",
        "/a/",
        "/a//",
        "/a/.",
        "/a/%2E",
        "/a%2F",
        "/..",
        "/../a",
        "/a/../b",
        "/%2e%2e/a",
        "/a/.%2E/b",
        "/..%2fa",
        "/a%00b",
        "/a\0b",
        "/a%0A",
        "/a\x7f",
        "/%7F",
        "/%C2%80",
        "/%C2%9F",
        "/%ff",
        "/\xff",
        "/%c3",
        "/%C0%AF",
        "/%ED%A0%80",
        "/€",
        "/" + "x" * 256,
        "/" + "%C3%BC" * 128,
        "/" + "/".join(["p" * 203] * 4 + ["f" * 209]),
        "/" + "/".join(["a"] * 600),
    ],
)
def test_what_no_key_can_be_names_none(raw_path: str) -> None:
    """DL-3: folders, dot-dot in any spelling, controls, bad UTF-8 and lengths name no key."""
    assert requested_key(raw_path) is None


@PROPERTY
@given(wire_path)
@example("/a//b/./c")
@example("/%")
@example("/" + "a" * 256)
def test_targets_by_the_model(raw_path: str) -> None:
    """Invariant: a target names the key that decoding it by the character gives, or none (DL-1)."""
    assert requested_key(raw_path) == model_requested(raw_path)


@PROPERTY
@given(anything, anything, st.sampled_from(["", "/", "!$&'()*+,;=:@/"]))
def test_what_can_be_stored_can_be_requested(path: str, filename: str, unquoted: str) -> None:
    """Invariant: every key is found again by its target, whatever the client leaves unencoded (DL-1)."""
    key = key_or_refusal(path, filename)
    if isinstance(key, BadKey):
        return
    assert requested_key("/" + quote(key, safe=unquoted)) == key
    assert requested_key("/" + key.replace("%", "%25").encode().decode("latin-1")) == key


@PROPERTY
@given(anything)
@example("a/b.txt")
@example("a//b")
@example(".hidden/%41")
@example("a" * 256)
@example("é" * 127)
def test_names_found_in_a_store(name: str) -> None:
    """Invariant: a name is a key exactly where its target names that very name (LS-1)."""
    assert is_key(name) == (requested_key("/" + quote(name, errors="surrogatepass")) == name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.txt", True),
        ("ünï/ %", True),
        ("/a", False),
        ("a/", False),
        ("a/./b", False),
        ("a/../b", False),
        ("a\nb", False),
        ("caf\udce9", False),
        ("", False),
    ],
)
def test_what_lies_about_in_a_store(name: str, expected: bool) -> None:
    """LS-1: what no URL could name is no key, wherever it came from."""
    assert is_key(name) is expected


# ---- UP-6: content types


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a/x.bin", "application/octet-stream"),
        ("x.txt", "text/plain"),
        ("x.log", "text/plain"),
        ("x.gz", "application/gzip"),
        ("x.tar", "application/x-tar"),
        ("x.zip", "application/zip"),
        ("x.tgz", "application/x-gzip"),
        ("x.xz", "application/x-xz"),
        ("x.lz", "application/x-lzip"),
        ("x.json", "application/json"),
        ("x.tar.gz", "application/gzip"),
        ("x.tar.xz", "application/x-xz"),
        ("x.html.gz", "application/gzip"),
        ("x.html.br", "application/octet-stream"),
        ("x.svgz", "application/octet-stream"),
        ("X.TAR.GZ", "application/gzip"),
        ("Image.Gz", "application/gzip"),
        ("x.HTML", "text/html"),
        ("x.csv", "text/csv"),
        ("x.js", "text/javascript"),
        ("x.mjs", "text/javascript"),
        ("README.md", "text/markdown"),
        ("x.unheard-of", "application/octet-stream"),
        ("vmlinux", "application/octet-stream"),
        (".gz", "application/octet-stream"),
        ("a.gz/x", "application/octet-stream"),
        ("x.", "application/octet-stream"),
        ("data:text/html,.txt", "text/plain"),
    ],
)
def test_the_extension_gives_the_content_type(key: str, expected: str) -> None:
    """UP-6: the last extension decides, in any case."""
    assert content_type(key) == expected


@PROPERTY
@given(anything)
def test_every_key_has_a_valid_type(key: str) -> None:
    """Invariant: the content type of any text is a valid media type (UP-6)."""
    assert valid_media_type(content_type(key))


def test_types_do_not_depend_on_the_host(tmp_path: pathlib.Path) -> None:
    """UP-6: the mime.types of a host changes nothing."""
    table = tmp_path / "mime.types"
    table.write_text("text/x-of-this-host fooext html\n")
    program = f"""
        import mimetypes
        mimetypes.knownfiles = [{str(table)!r}]
        mimetypes.init()
        assert mimetypes.guess_type("x.fooext")[0] == "text/x-of-this-host", "the trap is armed"
        from kcistorage_parts.names import content_type
        print(content_type("x.fooext"), content_type("x.html"))
    """
    root = pathlib.Path(names.__file__).parents[1]
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=False,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.stdout.split() == ["application/octet-stream", "text/html"], child.stderr


@pytest.mark.parametrize(
    "value",
    [
        "text/plain",
        "application/x-tar",
        "application/vnd.api+json",
        "text/plain;charset=utf-8",
        "text/plain; charset=utf-8",
        "text/plain \t;\t charset=utf-8;x=y",
        'text/plain; charset="utf-8"',
        'text/plain; x="a b;c=\\"d\\\\"',
        'text/plain; x=""',
        "text/plain;",
        "text/plain;;; x=1 ;",
        "!#$%&'*+-.^_`|~/a",
    ],
)
def test_media_types(value: str) -> None:
    """UP-6: what Content-Type-Upstream may say."""
    assert valid_media_type(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "text",
        "/plain",
        "text/",
        "text/plain/x",
        " text/plain",
        "text/plain ",
        "text /plain",
        "text/plain\n",
        "text/plain\r\nX: y",
        "text/plain; charset",
        "text/plain; charset=",
        "text/plain; charset = utf-8",
        "text/plain; =x",
        "text/plain charset=utf-8",
        "text/plain, text/html",
        'text/plain; x="a',
        'text/plain; x="a\\"',
        'text/plain; x="a"b',
        'text/plain; x="a\0b"',
        'text/plain; x="ü"',
        "text/plän",
        "text/plain; x=(a)",
    ],
)
def test_what_is_no_media_type(value: str) -> None:
    """UP-6: what it may not say."""
    assert not valid_media_type(value)


@pytest.mark.parametrize("filling", ["; ", ";   \t", ";a=b ", ' ;a="\\\\"', '"', "a", " "])
def test_a_hostile_media_type_is_judged_at_once(filling: str) -> None:
    """UP-6: Ends within the test's time limit only if the judgement does not backtrack exponentially."""
    assert not valid_media_type("a/b" + filling * 2000 + "\0")


TOKEN = st.text(alphabet="!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=4)
QUOTED = st.text(alphabet='\t !"#\\]~a;=', max_size=4).map(lambda text: '"' + re.sub(r'(["\\])', r"\\\1", text) + '"')
PARAMETER = st.builds("{}={}".format, TOKEN, st.one_of(TOKEN, QUOTED))
SEPARATOR = st.sampled_from([";", "; ", " ;", "\t; ", ";;", "; ; "])


@PROPERTY
@given(TOKEN, TOKEN, st.lists(st.tuples(SEPARATOR, PARAMETER), max_size=4))
def test_media_types_by_their_grammar(kind: str, subtype: str, parameters: list[tuple[str, str]]) -> None:
    """Invariant: whatever the grammar of RFC 9110 8.3.1 derives is valid, and no longer with a control in it (UP-6)."""
    value = f"{kind}/{subtype}" + "".join(separator + parameter for separator, parameter in parameters)
    assert valid_media_type(value)
    assert not any(valid_media_type(value[:at] + "\r\n" + value[at:]) for at in range(len(value) + 1))


# ---- DL-2: the name a browser saves


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a/b/file.bin", 'attachment; filename="file.bin"'),
        ("sp ace;x=1,+~.txt", 'attachment; filename="sp ace;x=1,+~.txt"'),
        ("a/ü€.txt", "attachment; filename=\"ü€.txt\"; filename*=UTF-8''%C3%BC%E2%82%AC.txt"),
        ('q"uote', "attachment; filename=\"q_uote\"; filename*=UTF-8''q%22uote"),
        ("back\\slash", "attachment; filename=\"back_slash\"; filename*=UTF-8''back%5Cslash"),
        ("line\r\nbreak", "attachment; filename=\"line__break\"; filename*=UTF-8''line%0D%0Abreak"),
        ("c1\x85", "attachment; filename=\"c1_\"; filename*=UTF-8''c1%C2%85"),
        ("a%20b", "attachment; filename=\"a%20b\"; filename*=UTF-8''a%2520b"),
        (
            "dir/" + ODD_NAME,
            (
                'attachment; filename="sp ace%22q_b-ü€;x=1.txt"; '
                "filename*=UTF-8''sp%20ace%2522q%5Cb-%C3%BC%E2%82%AC%3Bx%3D1.txt"
            ),
        ),
        ("it's*(1)é", "attachment; filename=\"it's*(1)é\"; filename*=UTF-8''it%27s%2A%281%29%C3%A9"),
        ("!#$&+-.^_`|~é", "attachment; filename=\"!#$&+-.^_`|~é\"; filename*=UTF-8''!#$&+-.^_`|~%C3%A9"),
    ],
)
def test_content_disposition(key: str, expected: str) -> None:
    """DL-2: raw UTF-8 for those who read `filename`, the true name in `filename*`."""
    assert content_disposition(key) == expected


FIELD = re.compile(
    r"attachment; filename=\"([^\"\\\x00-\x1f\x7f-\x9f]*)\"(?:; filename\*=UTF-8''([\w!#$&+.^`|~%-]*))?", re.ASCII
)


@PROPERTY
@given(anything)
def test_the_true_name_comes_through(key: str) -> None:
    """Invariant: for any text the field is well formed, and its most exact form is the last segment (DL-2)."""
    field = FIELD.fullmatch(content_disposition(key))
    assert field is not None
    plain, extended = field.groups()
    field[0].encode("utf-8")
    name = key.rpartition("/")[2]
    assert len(plain) == len(name)
    if extended is None:
        assert plain == name
        assert name.isascii()
    elif not re.search("[\ud800-\udfff]", name):
        assert unquote_to_bytes(extended).decode("utf-8") == name
