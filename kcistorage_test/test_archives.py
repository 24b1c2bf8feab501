"""Archives: AR-1 to AR-3."""

from __future__ import annotations

import ast
import copy
import gzip
import inspect
import io
import lzma
import os
import re
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kcistorage_parts import archives
from kcistorage_parts.archives import BLOCK, CHUNK, REASONS, BadArchive, Limits, Member, members, opened
from kcistorage_test.parts_at_hand import needs, needs_library

PROPERTY = settings(deadline=None, max_examples=50)
END = bytes(2 * BLOCK)
ROOT = Path(__file__).resolve().parent.parent
Files = list[tuple[str, bytes]]


def reader(data: bytes, sizes: Optional[Iterator[int]] = None) -> Callable[[int], bytes]:
    """A `read` that hands out pieces of the given sizes, or all that is asked for."""
    source = io.BytesIO(data)
    return lambda most: source.read(min(most, next(sizes, most) if sizes else most))


def collected(events: Iterable[object]) -> Files:
    """The files of an archive, each in one piece. Checks the order and the form of the events on the way."""
    found: Files = []
    size: Optional[int] = None
    for event in events:
        if isinstance(event, Member):
            assert size is None
            size = event.size
            found.append((event.name, b""))
        elif event is None:
            assert size == len(found[-1][1])
            size = None
        else:
            assert isinstance(event, bytes)
            assert size is not None
            assert 0 < len(event) <= CHUNK
            found[-1] = (found[-1][0], found[-1][1] + event)
    assert size is None
    return found


def unpacked(data: bytes, filename: str = "a.tar", limits: Limits = archives.LIMITS) -> Files:
    return collected(members(opened(filename, reader(data)), limits))


def refusal(data: bytes, filename: str = "a.tar", limits: Limits = archives.LIMITS) -> str:
    """The reason for which an archive is refused."""
    with pytest.raises(BadArchive) as refused:
        unpacked(data, filename, limits)
    assert refused.value.text.startswith(REASONS[refused.value.reason])
    assert refused.value.text.isprintable()
    return refused.value.reason


def header(
    name: bytes = b"a", size: int = 0, kind: bytes = b"0", magic: bytes = b"ustar\x0000", **fields: bytes
) -> bytes:
    """The block before a member. `fields`: size_field, prefix and checksum, if they are to be special."""
    size_field = fields.get("size_field", b"%011o\0" % size)
    block = name.ljust(100, b"\0") + b"0000644\0" + 2 * b"0001750\0" + size_field + b"14000000000\0"
    block += bytes(8) + kind + bytes(100) + magic.ljust(88, b"\0") + fields.get("prefix", b"").ljust(155, b"\0")
    block = block.ljust(BLOCK, b"\0")
    checksum = fields.get("checksum", b"%06o\0 " % (sum(block) + 8 * ord(" ")))
    return block[:148] + checksum + block[156:]


def filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes = b"a", data: bytes = b"", kind: bytes = b"0", **fields: bytes) -> bytes:
    return header(name, len(data), kind, **fields) + filled(data)


def pax(kind: bytes = b"x", **keywords: bytes) -> bytes:
    """A pax header; `GNU__sparse__major` stands for `GNU.sparse.major`."""
    records = b""
    for keyword, value in keywords.items():
        record = b" %s=%s\n" % (keyword.replace("__", ".").encode(), value)
        length = len(record) + len(str(len(record)))
        records += b"%d" % (length + (len(str(length)) > len(str(len(record))))) + record
    return member(b"/tmp/PaxHeaders/a", records, kind)


def by_tarfile(files: Files, form: int = tarfile.PAX_FORMAT, mode: str = "w") -> bytes:
    """An archive of files as Python writes it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


def zstd() -> Any:
    """What reads .zst archives in this Python."""
    return needs_library("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def zst(data: bytes) -> bytes:
    library = zstd()
    packed = library.compress(data, options={library.CompressionParameter.checksum_flag: 1})
    assert isinstance(packed, bytes)
    return packed


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "a.tar": bytes,
    "a.tar.gz": gzip.compress,
    "a.tar.xz": lzma.compress,
    "a.tar.zst": zst,
}
compressed = pytest.mark.parametrize("filename", [name for name in COMPRESS if name != "a.tar"])


def test_reasons_lists_exactly_the_reasons_that_are_given() -> None:
    words = [node.value for node in ast.walk(ast.parse(inspect.getsource(archives))) if isinstance(node, ast.Constant)]
    given_reasons = [word for word in words if isinstance(word, str) and re.fullmatch(r"archive(-[a-z]+)+", word)]
    assert set(given_reasons) == set(REASONS)
    assert all(given_reasons.count(word) > 1 for word in REASONS), "beside the list that documents it"
    assert all(text.isprintable() for text in REASONS.values())


def test_a_refusal_is_a_value_error_that_reads_as_its_text() -> None:
    refused = BadArchive("archive-member", "'a' is a FIFO")
    assert isinstance(refused, ValueError)
    assert str(refused) == refused.text == "The archive has a member that cannot be stored: 'a' is a FIFO"
    assert str(copy.copy(refused)) == refused.text


# ---- AR-1: archives as tools write them


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder to pack: device trees in folders, an empty file and an empty folder, names of all sorts."""
    names = ("dtbs/arm64/board.dtb", "dtbs/arm64/empty", "dtbs/ü€/𝄞 = ~+%.dtb", "dtbs/a..b", "dtbs/...", "dtbs/{x}\\n")
    for number, name in enumerate(names):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name.endswith("empty") else os.urandom(number * 9_000 + 512))
    (tmp_path / "tree" / "dtbs" / "none").mkdir()
    (tmp_path / "tree" / "dtbs" / "zeros").write_bytes(bytes(600_000))
    return tmp_path / "tree"


def add_long_names(tree: Path, segments: int) -> None:
    folder = tree / "dtbs" / "/".join(["d" * 90] * segments)
    folder.mkdir(parents=True)
    (folder / ("ü" * 45)).write_bytes(b"far away")


def on_disk(tree: Path) -> Files:
    return sorted((path.relative_to(tree).as_posix(), path.read_bytes()) for path in tree.rglob("*") if path.is_file())


def output(*command: object, folder: Path) -> bytes:
    return subprocess.run([str(word) for word in command], cwd=folder, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "posix", "ustar", "v7"])
@pytest.mark.parametrize("what", ["dtbs", "./"])
def test_archives_of_gnu_tar(tree: Path, form: str, what: str) -> None:
    if form != "v7":  # whose names have 99 bytes at most
        add_long_names(tree, 1 if form == "ustar" else 5)
    assert sorted(unpacked(output(needs("tar"), f"--format={form}", "-c", what, folder=tree))) == on_disk(tree)


@pytest.mark.parametrize(("option", "suffix"), [("-z", ".TGZ"), ("-J", ".txz"), ("-J", ".tar.xz"), ("--zstd", ".tzst")])
def test_archives_of_gnu_tar_compressed(tree: Path, option: str, suffix: str) -> None:
    """AR-2: kernelci-core sends a dtbs.tar.xz like this one, with an entry for each folder."""
    if option == "--zstd":
        needs("zstd")
        zstd()
    assert sorted(unpacked(output(needs("tar"), option, "-c", ".", folder=tree), f"a{suffix}")) == on_disk(tree)


@pytest.mark.parametrize("form", ["pax", "gnutar", "ustar"])
def test_archives_of_bsdtar(tree: Path, form: str) -> None:
    add_long_names(tree, 1 if form == "ustar" else 5)
    packed = output(needs("bsdtar"), "-J", f"--format={form}", "-c", "-f", "-", "dtbs", folder=tree)
    assert sorted(unpacked(packed, "a.txz")) == on_disk(tree)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize(("mode", "suffix"), [("w", "tar"), ("w:gz", "tgz"), ("w:xz", "tar.xz")])
def test_archives_of_python(tree: Path, form: int, mode: str, suffix: str) -> None:
    add_long_names(tree, 1 if form == tarfile.USTAR_FORMAT else 5)
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        archive.add(tree, arcname=".")
    assert sorted(unpacked(target.getvalue(), f"a.{suffix}")) == on_disk(tree)


def test_archives_of_git(tree: Path) -> None:
    """AR-2: `git archive` begins with a global pax header that holds the commit."""
    git = [needs("git"), "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "t"]):
        output(*git, *words, folder=tree)
    files = [(f"src/{name}", data) for name, data in on_disk(tree) if not name.startswith(".git/")]
    packed = output(*git, "archive", "--prefix=src/", "HEAD", folder=tree)
    assert packed[156:157] == b"g"
    assert sorted(unpacked(packed)) == files
    packed = output(*git, "archive", "--prefix=src/", "--format=tar.gz", "HEAD", folder=tree)
    assert sorted(unpacked(packed, "linux.tar.gz")) == files


def test_times_in_gnu_headers_are_no_folder(tree: Path) -> None:
    packed = output(needs("tar"), "--format=gnu", "-g", "../snapshot", "-c", "dtbs/arm64/board.dtb", folder=tree)
    assert packed[257:265] == b"ustar  \0"
    assert packed[345:346] != b"\0"
    assert [name for name, _ in unpacked(packed)] == ["dtbs/arm64/board.dtb"]


@pytest.mark.parametrize("filename", ["a.zip", "a.gz", "a.tar.bz2", "tar", "a.tar.", "a.tar/b", ""])
def test_an_unknown_suffix_is_refused(filename: str) -> None:
    with pytest.raises(BadArchive) as refused:
        opened(filename, reader(b""))
    assert refused.value.reason == "archive-unknown"


@pytest.mark.parametrize("packed", COMPRESS)
@pytest.mark.parametrize("named", COMPRESS)
def test_what_is_not_what_its_name_says_is_refused(packed: str, named: str) -> None:
    data = COMPRESS[packed](by_tarfile([("a", os.urandom(2_000))]))
    if named.endswith("zst"):
        zstd()
    if packed == named:
        assert len(unpacked(data, named)) == 1
    else:
        assert refusal(data, named) == "archive-malformed"


def test_relatives_of_gzip_and_xz_are_refused() -> None:
    tar = by_tarfile([("a", b"data")])
    assert refusal(zlib.compress(tar), "a.tar.gz") == "archive-malformed"
    assert refusal(lzma.compress(tar, lzma.FORMAT_ALONE), "a.tar.xz") == "archive-malformed"


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=80)
paths = st.lists(names.filter(lambda name: name.strip(".")), min_size=1, max_size=4).map("/".join)
wholes = st.lists(st.tuples(paths, st.binary(max_size=1_500)), min_size=1, max_size=5)


@pytest.mark.parametrize("filename", COMPRESS)
@PROPERTY
@given(wholes, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.lists(st.integers(1, 3_000), max_size=60))
def test_round_trip(filename: str, files: Files, form: int, sizes: list[int]) -> None:
    """Invariant: what Python packs comes back as it was, in whatever pieces it arrives."""
    packed = COMPRESS[filename](by_tarfile(files, form))
    assert collected(members(opened(filename, reader(packed, iter(sizes))))) == files


@compressed
@pytest.mark.parametrize("most", [1, 511, 512, 100_000])
def test_opened_yields_what_it_is_asked_for(filename: str, most: int) -> None:
    tar = by_tarfile([("a", os.urandom(9_000) + bytes(30_000))])
    read = opened(filename, reader(COMPRESS[filename](tar), iter([7] * 1_000)))
    pieces = list(iter(lambda: read(most), b""))
    assert b"".join(pieces) == tar
    assert max(map(len, pieces)) <= most
    assert read(most) == b""


def test_what_read_raises_passes_through() -> None:
    def read(most: int) -> bytes:
        raise TimeoutError("gone")

    for filename in ("a.tar", "a.tar.gz", "a.tar.xz"):
        with pytest.raises(TimeoutError, match="gone"):
            list(members(opened(filename, read)))


# ---- AR-2: members


@pytest.mark.parametrize("kind", [b"0", b"\0", b"7"])
def test_types_of_files(kind: bytes) -> None:
    assert unpacked(member(b"a", b"data", kind) + END) == [("a", b"data")]


@pytest.mark.parametrize("name", [b"d/", b"./", b"././", b"d"])
def test_folders_are_skipped(name: bytes) -> None:
    kinds = (b"0", b"\0", b"5") if name.endswith(b"/") else (b"5",)
    for kind in kinds:
        assert unpacked(member(name, kind=kind) + member() + END) == [("a", b"")]
        assert refusal(member(name, header(b"hidden"), kind) + member() + END) == "archive-malformed"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (b"./a", "a"),
        (b"././/./a/b", "a/b"),
        (b".//a", "a"),
        (b"./.a", ".a"),
        (b"a/./b//c", "a/./b//c"),
        (b"..a/b../c..d/...", "..a/b../c..d/..."),
        (b"C:\\a", "C:\\a"),
        ("ü€𝄞".encode(), "ü€𝄞"),
        (b"n" * 100, "n" * 100),
    ],
)
def test_names(name: bytes, found: str) -> None:
    assert unpacked(member(name) + END) == [(found, b"")]


@pytest.mark.parametrize(
    "name",
    [
        *(b"/", b"/a", b"//a", b"/../a"),
        *(b"..", b"../a", b"a/..", b"a/../b", b"./../a", b"../"),
        *(b"\xff", b"a/\xc3", b"\xed\xa0\x80", "ü".encode("latin-1")),
        *(b"", b".", b"a/."),
        b"../\n\x1b[31m" + b"x" * 80,
    ],
)
def test_bad_names(name: bytes) -> None:
    assert refusal(member(name) + END) == "archive-member"
    assert refusal(member() + member(name) + END) == "archive-member"


@pytest.mark.parametrize("name", [b"/d/", b"../", b"d/../", b"\xff/"])
def test_bad_names_of_folders(name: bytes) -> None:
    assert refusal(member(name, kind=b"5") + member() + END) == "archive-member"


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"S", b"D", b"M", b"V", b"X", b"A", b"N", b"\xff"])
def test_links_devices_and_whatever_else(kind: bytes) -> None:
    assert refusal(member() + member(b"b", kind=kind) + END) == "archive-member"


def test_links_and_fifos_of_gnu_tar(tree: Path) -> None:
    (tree / "symbolic").symlink_to("dtbs")
    os.link(tree / "dtbs/a..b", tree / "hard")
    os.mkfifo(tree / "fifo")
    for name, kind in (("symbolic", "symbolic link"), ("hard", "hard link"), ("fifo", "FIFO")):
        packed = output(needs("tar"), "-c", "dtbs", name, folder=tree)
        with pytest.raises(BadArchive, match=f"'{name}' is a {kind}"):
            unpacked(packed)


@pytest.mark.parametrize(
    "options", ["--format=gnu", *(f"--format=posix --sparse-version={version}" for version in ("0.0", "0.1", "1.0"))]
)
def test_sparse_files_of_gnu_tar(tree: Path, options: str) -> None:
    with (tree / "sparse").open("wb") as sparse:
        sparse.truncate(10_000_000)
        sparse.write(b"x" * 4_096)
    packed = output(needs("tar"), *options.split(), "-S", "-c", "dtbs", "sparse", folder=tree)
    assert refusal(packed) == "archive-member"


def test_an_archive_without_a_file_is_refused() -> None:
    for archive in (END, member(b"d/", kind=b"5") + END, pax(b"g", comment=b"c") + END, bytes(10_240)):
        assert refusal(archive) == "archive-empty"


# ---- AR-2: extension headers


def test_pax_path_and_size() -> None:
    assert unpacked(pax(path=b"n" * 300) + member(b"short", b"x") + END) == [("n" * 300, b"x")]
    assert unpacked(pax(size=b"3", mtime=b"1.5") + header(size=0) + filled(b"abc") + END) == [("a", b"abc")]
    assert unpacked(pax(path=b"a/") + member() + member(b"b") + END) == [("b", b"")]
    assert unpacked(pax(path=b"x") + member() + member(b"b") + END) == [("x", b""), ("b", b"")]


def test_pax_global_headers() -> None:
    everywhere = pax(b"g", path=b"x", comment=b"c")
    assert unpacked(everywhere + member() + member(b"b") + END) == [("x", b""), ("x", b"")]
    assert unpacked(everywhere + pax(path=b"y") + member() + END) == [("y", b"")]
    assert unpacked(everywhere + pax(path=b"") + member() + END) == [("a", b"")]
    assert unpacked(everywhere + pax(b"g", path=b"") + member() + END) == [("a", b"")]


@pytest.mark.parametrize("charset", [b"BINARY", b"ISO-IR 10646 2000 UTF-8", b"ISO-IR 8859 1 1998"])
def test_pax_names_are_utf8_whatever_they_are_said_to_be(charset: bytes) -> None:
    assert unpacked(pax(hdrcharset=charset, path="ü".encode()) + member() + END) == [("ü", b"")]
    assert refusal(pax(hdrcharset=charset, path=b"\xfc") + member() + END) == "archive-member"


@pytest.mark.parametrize("path", [b"/a", b"../a", b"a/../b", b"\xff"])
def test_bad_pax_paths(path: bytes) -> None:
    assert refusal(pax(path=path) + member(b"good") + END) == "archive-member"
    assert refusal(pax(b"g", path=path) + member(b"good") + END) == "archive-member"


@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_pax_sparse_files(kind: bytes) -> None:
    for keyword in ("GNU__sparse__major", "GNU__sparse__size", "GNU__sparse__name", "GNU__sparse__map"):
        assert refusal(pax(kind, path=b"a", **{keyword: b"1"}) + member() + END) == "archive-member"


@pytest.mark.parametrize(
    "records",
    [
        *(b"x", b"\n", b"0 a=b\n", b"5 a=b\n", b"7 a=b\n", b"6 a=bc", b"-6 a=b\n", b"+6 a=b\n", b"6_0 a=b\n"),
        *(
            b"6 abc\n",
            b"5 =b\n",
            b"6  =b\n6",
            b"6 a=b\n\0",
            b"2 a=b\n",
            b"6 a=b\n0 a=b\n",
            b"99999999999999999999999 a=b\n",
            b" 6 a=b\n",
        ),
        *(b"9 size=x\n", b"10 size=-1\n", b"10 size= 1\n", b"11 size=1_0\n", b"11 size=\xd9\xa1\n"),
        b"32 size=1" + b"0" * 22 + b"\n",
        b"1" * 5_000 + b" a=b\n",
    ],
)
def test_pax_headers_that_cannot_be_read(records: bytes) -> None:
    assert refusal(member(b"p", records, b"x") + member() + END) == "archive-malformed"


def test_pax_values_may_hold_anything() -> None:
    assert unpacked(pax(comment=b"\n=\0 12 path=b\n\xff") + member() + END) == [("a", b"")]


def test_gnu_long_names() -> None:
    name, link = member(b"././@LongLink", b"l" * 150 + b"\0", b"L"), member(b"././@LongLink", b"k" * 150 + b"\0", b"K")
    assert unpacked(link + name + member() + member(b"b") + END) == [("l" * 150, b""), ("b", b"")]
    assert unpacked(name + link + pax(path=b"p") + member() + END) == [("p", b"")]
    assert unpacked(pax(path=b"p") + name + member() + END) == [("p", b"")]
    assert refusal(member(b"././@LongLink", b"/etc/passwd\0", b"L") + member() + END) == "archive-member"


def test_a_long_name_cut_behind_a_slash_is_no_folder() -> None:
    full = b"d" * 99 + b"/file"
    assert unpacked(member(b"L", full + b"\0", b"L") + member(full[:100], b"x", b"\0") + END) == [(full.decode(), b"x")]


def test_extension_headers_without_a_member_are_refused() -> None:
    assert refusal(member() + pax(path=b"x") + END) == "archive-malformed"
    assert unpacked(member() + pax(b"g", comment=b"x") + END) == [("a", b"")]


def test_prefixes() -> None:
    assert unpacked(member(b"a", prefix=b"p/q") + END) == [("p/q/a", b"")]
    assert unpacked(member(b"a", prefix=b"p" * 155) + END) == [("p" * 155 + "/a", b"")]
    assert refusal(member(b"a", prefix=b"..") + END) == "archive-member"
    assert unpacked(member(b"a", prefix=b"12345670123", magic=b"ustar  \0") + END) == [("a", b"")]
    assert unpacked(member(b"a", prefix=b"p", magic=b"") + END) == [("a", b"")]


# ---- AR-2: numbers and checksums


@pytest.mark.parametrize(
    "field",
    [
        *(b"00000000003\0", b"3\0".ljust(12, b"\0"), b"          3 ", b"000000000003", b"3 \0junk".ljust(12, b"x")),
        *(b"\x80" + bytes(10) + b"\x03", b"\0" * 11 + b"3"),
    ],
)
def test_sizes(field: bytes) -> None:
    assert unpacked(header(size_field=field) + filled(b"abc") + END) == [("a", b"abc")]


@pytest.mark.parametrize("field", [b"", b" " * 12, b"\0 \0"])
def test_no_size_is_none(field: bytes) -> None:
    assert unpacked(header(size_field=field.ljust(12, b"\0")) + END) == [("a", b"")]


@pytest.mark.parametrize("field", [b"-0000000003\0", b"+3", b"0o3", b"0x3", b"1_0", b"9", b"3x", b"\x7f", b"abc"])
def test_sizes_that_are_no_numbers(field: bytes) -> None:
    assert refusal(header(size_field=field.ljust(12, b"\0")) + filled(b"abc") + END) == "archive-malformed"


@pytest.mark.parametrize("field", [b"\xff" * 12, b"\xff" * 11 + b"\xfd", b"\x80" + b"\xff" * 11, b"7" * 12])
def test_negative_and_huge_sizes(field: bytes) -> None:
    assert refusal(header(size_field=field) + filled(b"abc") + END) == "archive-too-large"
    assert refusal(header(kind=b"x", size_field=field) + filled(b"abc") + END) == "archive-too-large"


def test_every_byte_of_a_header_is_under_its_checksum() -> None:
    whole = member(b"name", prefix=b"p")
    for position in (*range(148), *range(156, BLOCK)):
        changed = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
        assert refusal(changed + END) == "archive-malformed"
    assert refusal(member(checksum=b"abcdefgh") + END) == "archive-malformed"


def test_checksums_as_writers_pad_them() -> None:
    number = int(header()[148:154], 8)
    for checksum in (b"%06o\0 ", b"%07o\0", b"%6o\0 ", b"%6o \0"):
        assert unpacked(member(checksum=checksum % number) + END) == [("a", b"")]


# ---- AR-2: truncation and damage

SMALL = [("dir/a", b"data" * 9), ("b", b""), ("c" * 120, bytes(range(256)) * 3)]


@pytest.mark.parametrize("filename", COMPRESS)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_no_beginning_of_an_archive_passes(filename: str, form: int) -> None:
    """Invariant: an archive that is cut anywhere before its end marker, or in its compressed data, is refused."""
    tar = by_tarfile(SMALL, form)
    packed = COMPRESS[filename](tar)
    whole = len(tar.rstrip(b"\0")) + len(END) if filename == "a.tar" else len(packed)
    whole += -whole % BLOCK if filename == "a.tar" else 0
    assert unpacked(packed[:whole], filename) == SMALL
    for length in range(0, whole, 7 if filename == "a.tar" else 1):
        assert refusal(packed[:length], filename) == "archive-truncated"


@compressed
def test_no_flipped_bit_passes_unseen(filename: str) -> None:
    """Invariant: compressed data with one bit flipped is refused, or unpacks to the same.

    To the same where the bit is, say, one of the time in gzip's head.
    """
    packed = bytearray(COMPRESS[filename](by_tarfile(SMALL)))
    passed = 0
    for bit in range(8 * len(packed)):
        packed[bit // 8] ^= 1 << bit % 8
        try:
            assert unpacked(bytes(packed), filename) == SMALL
            passed += 1
        except BadArchive as refused:
            assert refused.reason in {"archive-malformed", "archive-truncated", "archive-memory"}  # noqa: PT017
        packed[bit // 8] ^= 1 << bit % 8
    assert passed < len(packed)  # one bit of eight


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"", "archive-truncated"),
        (bytes(BLOCK), "archive-truncated"),
        (bytes(2 * BLOCK - 1), "archive-truncated"),
        (bytes(BLOCK) + member(b"b") + END, "archive-malformed"),
        (END + b"x", "archive-malformed"),
        (END + member(b"b") + END, "archive-malformed"),
        (bytes(10_240) + b"\n", "archive-malformed"),
        (b"x" * BLOCK + END, "archive-malformed"),
    ],
)
def test_what_does_not_end_as_an_archive_ends(rest: bytes, reason: str) -> None:
    assert refusal(member() + rest) == reason
    for filename in ("a.tar.gz", "a.tar.xz"):
        assert refusal(COMPRESS[filename](member() + rest), filename) == reason


def test_zeros_may_follow_the_end() -> None:
    for zeros in (0, 1, 511, 10_240, 1_000_000):
        assert unpacked(member() + END + bytes(zeros)) == [("a", b"")]


pieces = st.sampled_from(
    [
        *(member(b"a", b"data"), member(b"d/", kind=b"5"), header(size=600), bytes(BLOCK), END, bytes(100)),
        *(pax(path=b"p"), pax(b"g", size=b"1"), pax(size=b"2"), member(b"L", b"long\0", b"L"), b"x" * BLOCK),
    ]
)
blocks = st.builds(
    header, st.binary(max_size=100), st.integers(0, 2_000), st.sampled_from([b"0", b"5", b"x", b"g", b"L", b"\xff"])
)


@pytest.mark.parametrize("filename", COMPRESS)
@PROPERTY
@given(st.lists(pieces | blocks | st.binary(max_size=600), max_size=12).map(b"".join))
def test_garbage(filename: str, data: bytes) -> None:
    """Invariant: garbage gives files or a BadArchive with a documented reason, never another exception."""
    for garbage in {data, COMPRESS[filename](data)}:
        try:
            assert unpacked(garbage, filename)
        except BadArchive as refused:
            assert refused.reason in REASONS  # noqa: PT017


# ---- AR-1: several streams and padding


def halves(compress: Callable[[bytes], bytes], between: bytes = b"", after: bytes = b"") -> bytes:
    tar = by_tarfile(SMALL)
    return compress(tar[:700]) + between + compress(tar[700:]) + after


@pytest.mark.parametrize(("tool", "compress"), [("gzip", gzip.compress), ("xz", lzma.compress)])
@pytest.mark.parametrize(("zeros_between", "between"), [(n, b"") for n in (0, 1, 3, 4, 100_000)] + [(0, b"x")])
@pytest.mark.parametrize(("zeros_after", "after"), [(n, b"") for n in (0, 2, 4, 70_000)] + [(4, b"x"), (0, b"x")])
def test_streams_and_padding_pass_as_with_the_tool(
    tool: str, compress: Callable[[bytes], bytes], zeros_between: int, between: bytes, zeros_after: int, after: bytes
) -> None:
    """Invariant: what `gzip -t` and `xz -t` take is taken, and what they refuse or warn of is refused."""
    packed = halves(compress, bytes(zeros_between) + between, bytes(zeros_after) + after)
    taken = subprocess.run([needs(tool), "-t"], input=packed, stderr=subprocess.DEVNULL, check=False).returncode == 0
    filename = {"gzip": "a.tgz", "xz": "a.txz"}[tool]
    if taken:
        assert unpacked(packed, filename) == SMALL
    else:
        assert refusal(packed, filename) in {"archive-malformed", "archive-truncated"}  # a lone x may begin a stream


def test_frames_of_zstd() -> None:
    skippable = b"\x50\x2a\x4d\x18\x05\0\0\0guide"  # RFC 8878 3.1.2
    assert unpacked(halves(zst, skippable, skippable), "a.tar.zst") == SMALL
    for rest in (b"\0", b"x", skippable[:-1]):
        assert refusal(halves(zst, after=rest), "a.tar.zst") in {"archive-malformed", "archive-truncated"}


def test_empty_streams_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_STREAMS", 5)
    tar = by_tarfile(SMALL)
    assert unpacked(gzip.compress(b"") * 4 + gzip.compress(tar), "a.tgz") == SMALL
    assert refusal(gzip.compress(b"") * 5 + gzip.compress(tar), "a.tgz") == "archive-too-large"


# ---- AR-3: limits


def test_number_of_files() -> None:
    archive = member(b"d/", kind=b"5") + member() * 3 + END
    assert len(unpacked(archive, limits=Limits(files=3))) == 3
    assert refusal(archive, limits=Limits(files=2)) == "archive-too-large"


def test_bytes_of_a_file() -> None:
    archive = member(data=b"x" * 1_000) + END
    assert len(unpacked(archive, limits=Limits(file_bytes=1_000))) == 1
    assert refusal(archive, limits=Limits(file_bytes=999)) == "archive-too-large"


def test_a_file_that_claims_too_much_is_refused_before_it_is_read() -> None:
    asked = 0

    def read(most: int) -> bytes:
        nonlocal asked
        asked += 1
        return header(size=600 * 1024 * 1024) if asked == 1 else bytes(most)

    with pytest.raises(BadArchive, match="a file of more than 536,870,912 bytes"):
        next(members(read))
    assert asked == 1


def test_unpacked_bytes_are_all_that_come() -> None:
    """Headers, padding, skipped members and what follows the end count as well."""
    archive = member(b"d/", kind=b"5") + pax(path=b"p") + member(data=b"x") + bytes(10_240)
    for filename in ("a.tar", "a.tar.gz", "a.tar.xz"):
        packed = COMPRESS[filename](archive)
        assert len(unpacked(packed, filename, Limits(total_bytes=len(archive)))) == 1
        assert refusal(packed, filename, Limits(total_bytes=len(archive) - 1)) == "archive-too-large"


def test_extension_headers_are_small() -> None:
    most = archives.MAX_EXTENSION
    for kind in (b"x", b"g", b"L", b"K"):
        extension = pax(kind, comment=b"c" * (most - 15)) if kind in b"xg" else member(b"L", b"n" * most, kind)
        assert int(extension[124:135], 8) == most
        assert len(unpacked(extension + member() + END)) == 1
        assert refusal(header(b"L", most + 1, kind)) == "archive-too-large"


def test_extension_headers_are_small_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_EXTENSIONS", 34)
    assert len(unpacked((pax(path=b"12345678") + member()) * 2 + END)) == 2  # 17 bytes each
    assert refusal((pax(path=b"12345678") + member()) * 3 + END) == "archive-too-large"


def test_headers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_HEADERS", 10)
    assert len(unpacked(member(b"d/", kind=b"5") * 8 + member() + END)) == 1
    assert refusal(member(b"d/", kind=b"5") * 10 + member() + END) == "archive-too-large"


def with_dictionary(packed: bytes, exponent: int) -> bytes:
    """An .xz file that asks for a dictionary of 2**exponent bytes (the .xz File Format, 3.1 and 5.3.1)."""
    length = (packed[12] + 1) * 4
    head = bytearray(packed[12 : 12 + length])
    head[head.index(b"\x21\x01") + 2] = 2 * (exponent - 12)
    return packed[:12] + bytes(head[:-4]) + zlib.crc32(head[:-4]).to_bytes(4, "little") + packed[12 + length :]


def test_a_window_may_be_as_large_as_the_usual_tools_make_it() -> None:
    tar = by_tarfile(SMALL)
    assert unpacked(with_dictionary(lzma.compress(tar), 26), "a.tar.xz") == SMALL  # xz -9
    assert refusal(with_dictionary(lzma.compress(tar), 27), "a.tar.xz") == "archive-memory"


def test_a_window_of_zstd() -> None:
    library, tar = zstd(), by_tarfile(SMALL)
    for log, taken in ((26, True), (27, False)):
        # Of unknown length, or the frame would ask for no more than its content.
        compressor = library.ZstdCompressor(options={library.CompressionParameter.window_log: log})
        packed = compressor.compress(tar, compressor.FLUSH_BLOCK) + compressor.flush()
        if taken:
            assert unpacked(packed, "a.tzst") == SMALL
        else:
            assert refusal(packed, "a.tzst") == "archive-memory"


BOMB = """
import resource, sys
from kcistorage_parts.archives import Limits, members, opened

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

for number, filename in enumerate(sys.argv[1:]):
    unpacked = 0
    with open(filename, "rb") as file:
        warm = opened(filename, file.read)
        assert warm(1) == b"z"
        file.seek(0)
        before = peak()
        for event in members(opened(filename, file.read)):
            unpacked += len(event) if isinstance(event, bytes) else 0
    print(unpacked, peak() - before)
"""


def pieces_of_bomb(size: int) -> Iterator[bytes]:
    yield header(b"zeros", size)
    yield from (bytes(min(CHUNK, size - done)) for done in range(0, size, CHUNK))
    yield END


def test_bombs_take_bounded_memory(tmp_path: Path) -> None:
    """AR-3: 300 MB of zeros in 45 KB of .xz are unpacked in blocks, within 4 MiB of memory."""
    packers: dict[str, Any] = {"bomb.tar.xz": lzma.LZMACompressor(preset=0), "bomb.tgz": zlib.compressobj(1, wbits=31)}
    sizes = (300 * 1024 * 1024, 50 * 1024 * 1024)
    for size, (name, packer) in zip(sizes, packers.items()):
        packed = b"".join(map(packer.compress, pieces_of_bomb(size))) + packer.flush()
        assert len(packed) < size / 200
        (tmp_path / name).write_bytes(packed)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BOMB, *packers]
    printed = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, check=True).stdout
    for size, line in zip(sizes, printed.decode().splitlines()):
        unpacked_bytes, kibibytes = map(int, line.split())
        assert unpacked_bytes == size
        assert kibibytes < 4 * 1024


def test_a_bomb_of_zstd_comes_in_blocks() -> None:
    library = zstd()
    compressor = library.ZstdCompressor()
    packed = b"".join(map(compressor.compress, pieces_of_bomb(100 * 1024 * 1024))) + compressor.flush()
    assert len(packed) < 20_000
    sizes = [len(event) for event in members(opened("a.tzst", reader(packed))) if isinstance(event, bytes)]
    assert sum(sizes) == 100 * 1024 * 1024
    assert max(sizes) <= CHUNK


# ---- AR-1: zstd is an extra


def test_without_the_extra_a_zst_archive_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BadArchive, match=re.escape("kcistorage[zstd]")) as refused:
        opened("a.tar.zst", reader(b""))
    assert refused.value.reason == "archive-extra-missing"
    assert unpacked(by_tarfile(SMALL)) == SMALL


def test_the_extra_is_imported_when_it_is_needed() -> None:
    """A server that gets no such archive does not load it."""
    script = "import sys, kcistorage_parts.archives as a; a.opened('a.tar.xz', None); print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    assert "zstd" not in printed.decode()
