"""Archives: the files of a tar archive, compressed or not, checked and bounded as they stream (AR-1 to AR-3).

    members(opened("dtbs.tar.xz", read))     yields for each regular file:

    Member(name="dtbs/board.dtb", size=20480)
    b"..."                                   its data, in any number of blocks, none of them empty
    None                                     its end

Nothing of an archive is good before the iterator has ended by itself. Memory is bounded however large the archive is,
time by what it unpacks to. One thread reads one archive. tarfile is no help: it ends without an error where an archive
is cut between members, reads extension headers whole, and takes the times of a GNU incremental header for a folder.
"""

from __future__ import annotations

import importlib
import lzma
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, Union

CHUNK = 256 * 1024  # bytes unpacked at a time, at most
RAW_CHUNK = 64 * 1024  # bytes asked for at a time, to be unpacked
MAX_WINDOW = 100 * 1024 * 1024  # bytes that a decompressor may take; `xz -9` makes it take 65 MiB
MAX_WINDOW_LOG = 26  # zstd's window is a power of two: 64 MiB; `zstd -19` asks for 8, `--ultra -22` for 128
MAX_STREAMS = 65_536  # compressed streams, one after the other; bgzip begins one for every 64 KiB
MAX_HEADERS = 100_000  # of files, folders and extensions: ten for each of 10,000 files
MAX_EXTENSION = 64 * 1024  # bytes of one extension header; a path has 4,096 at most
MAX_EXTENSIONS = 16 * 1024 * 1024  # bytes of all: 1.6 KiB for each of 10,000 files. Measured: the worst take 4 s

REASONS = {
    "archive-unknown": "An archive's name ends in .tar, .tar.gz, .tgz, .tar.xz, .txz, .tar.zst or .tzst",
    "archive-malformed": "The archive is damaged, or is not what its name says",
    "archive-truncated": "The archive ends too early",
    "archive-member": "The archive has a member that cannot be stored",
    "archive-empty": "The archive has no regular file",
    "archive-too-large": "The archive is larger than the limits allow",
    "archive-memory": f"The archive takes a window of more than {1 << MAX_WINDOW_LOG >> 20} MiB to unpack",
    "archive-extra-missing": "This server reads .zst archives only if it is installed as kcistorage[zstd]",
}


class BadArchive(ValueError):
    """An archive that cannot be stored (AR-2, AR-3): `reason` for log and metrics, `text` for the client, one line."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.text = f"{REASONS[reason]}: {detail}" if detail else REASONS[reason]

    def __str__(self) -> str:
        return self.text


def _need(condition: object, reason: str, detail: str = "") -> None:
    if not condition:
        raise BadArchive(reason, detail)


class Limits(NamedTuple):
    """What an archive may hold (AR-3). `total_bytes` are those of the tar, with its headers and padding."""

    files: int = 10_000
    file_bytes: int = 512 * 1024 * 1024
    total_bytes: int = 2 * 1024 * 1024 * 1024


LIMITS = Limits()


class Member(NamedTuple):
    """A regular file. `name` is that of the archive without `./` before it: relative, and no segment is `..`."""

    name: str
    size: int  # bytes


# ---- Bytes

Read = Callable[[int], bytes]


class _Source:
    """Bytes in the portions in which they are wanted, of blocks as they come."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._block, self._position = b"", 0

    def some(self, most: int) -> bytes:
        """From one byte to `most` of them, b"" at the end."""
        if self._position == len(self._block):
            self._block, self._position = next(self._blocks, b""), 0
        found = self._block[self._position : self._position + most]
        self._position += len(found)
        return found

    def data(self, size: int) -> Iterator[bytes]:
        while size:
            block = self.some(size)
            _need(block, "archive-truncated")
            size -= len(block)
            yield block

    def exactly(self, size: int) -> bytes:
        return b"".join(self.data(size))


def _counted(read: Read, total_bytes: int) -> Iterator[bytes]:
    left = total_bytes
    while block := read(CHUNK):
        left -= len(block)
        _need(left >= 0, "archive-too-large", f"more than {total_bytes:,} bytes when unpacked")
        yield block


# ---- Compressed streams, of which a file may hold several (RFC 1952 2.2, RFC 8878 3.1, the .xz File Format 2)


class _Gunzip:
    """zlib in the shape of lzma.LZMADecompressor."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # 16: with gzip's head and trailer
        self.eof, self.needs_input, self.unused_data = False, True, b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        block = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.eof, self.needs_input = self._zlib.eof, not self._zlib.unconsumed_tail
        self.unused_data = self._zlib.unused_data
        return block


class _Format(NamedTuple):
    begin: Callable[[], Union[_Gunzip, lzma.LZMADecompressor]]  # or that of zstd, which is like lzma's
    error: type[Exception]  # for what cannot be unpacked, or has a wrong checksum
    padding: int = 0  # zeros after a stream come in multiples of this number; 0: there may be none
    goes_on: bool = True  # whether another stream may follow them


_GZIP = _Format(_Gunzip, zlib.error, padding=1, goes_on=False)  # gzip itself drops what follows zeros
_XZ = _Format(partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, MAX_WINDOW), lzma.LZMAError, padding=4)


def _zstd() -> _Format:
    """Python 3.14's or the extra's; the package zstandard unpacks a block at once, or misses that a frame is cut."""
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            zstd: Any = importlib.import_module(name)
            options = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
            return _Format(partial(zstd.ZstdDecompressor, options=options), zstd.ZstdError)
    raise BadArchive("archive-extra-missing")


def _stream(raw: bytes, read: Read, form: _Format) -> Generator[bytes, None, bytes]:
    """What one stream unpacks to, whose first bytes are `raw`. Returns what was read beyond it."""
    stream = form.begin()
    while not stream.eof:
        if stream.needs_input:
            raw = raw or read(RAW_CHUNK)
            _need(raw, "archive-truncated")
        try:
            block = stream.decompress(raw, CHUNK)
        except form.error as error:  # neither lzma nor zstd has a class for too much memory
            raise BadArchive("archive-memory" if "emory" in str(error) else "archive-malformed") from None
        raw = b""
        if block:
            yield block
    return stream.unused_data


def _unpacked(read: Read, form: _Format) -> Iterator[bytes]:
    """What all streams unpack to."""
    rest = b""
    for _ in range(MAX_STREAMS):
        rest = (yield from _stream(rest, read, form)) or read(RAW_CHUNK)
        padding = 0
        while rest.startswith(b"\0"):
            data = rest.lstrip(b"\0")
            padding += len(rest) - len(data)
            rest = data or read(RAW_CHUNK)
        if padding:
            whole = form.padding and padding % form.padding == 0 and (form.goes_on or not rest)
            _need(whole, "archive-malformed", "something follows its compressed data")
        if not rest:
            return
    raise BadArchive("archive-too-large", f"more than {MAX_STREAMS:,} compressed streams")


def opened(filename: str, read: Read) -> Read:
    """The tar that `read` yields, compressed as the suffix of `filename` tells, in any case.

    Like `read`, the result yields up to as many bytes as it is asked for, and b"" at the end, which is where the
    compressed data ends as its format demands. Both raise BadArchive; what `read` raises passes through. Whatever was
    raised, the result cannot be read any further.
    """
    name = filename.lower()
    if name.endswith(".tar"):
        return read
    if name.endswith((".tar.gz", ".tgz")):
        return _Source(_unpacked(read, _GZIP)).some
    if name.endswith((".tar.xz", ".txz")):
        return _Source(_unpacked(read, _XZ)).some
    _need(name.endswith((".tar.zst", ".tzst")), "archive-unknown")
    return _Source(_unpacked(read, _zstd())).some


# ---- Headers (POSIX.1-2017, pax: ustar and pax interchange formats; GNU tar manual, Basic Tar Format)

BLOCK = 512  # bytes
_RECORD = re.compile(rb"([0-9]{1,20}) ([^=\n]+)=")


def _number(field: bytes) -> int:
    """Octal digits, or base 256 behind a set bit (GNU), where a negative number comes out as a huge one."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
    digits = field.lstrip(b" \0").replace(b" ", b"\0").partition(b"\0")[0]
    _need(not digits.strip(b"01234567"), "archive-malformed", "a header has no number where one belongs")
    return int(digits or b"0", 8)


def _header(block: bytes) -> tuple[bytes, bytes, int]:
    """Type, name and size."""
    checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    _need(checksum == _number(block[148:156]), "archive-malformed", "the checksum of a header is wrong")
    name, prefix = (field.partition(b"\0")[0] for field in (block[:100], block[345:500]))
    if prefix and block[257:263] == b"ustar\0":  # GNU's older format, "ustar  ", has times there
        name = prefix + b"/" + name
    return block[156:157], name, _number(block[124:136])


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The path and size in a pax header, where `11 path=a\\n` is a record and the number the length of all of it.

    `hdrcharset` says nothing that counts: a path that is UTF-8 is taken, any other refused.
    """
    position = 0
    while position < len(data):
        found = _RECORD.match(data, position)
        end = position + int(found[1]) if found else 0
        if found is None or end <= found.end() or data[end - 1 : end] != b"\n":
            raise BadArchive("archive-malformed", "a pax header has no record where one belongs")
        keyword, value = found[2], data[found.end() : end - 1]
        _need(not keyword.startswith(b"GNU.sparse."), "archive-member", "a sparse file")
        if keyword in (b"path", b"size"):
            number = len(value) <= 20 and (value or b"0").isdigit()
            _need(number or keyword == b"path", "archive-malformed", "a pax header has no number where one belongs")
            yield keyword, value
        position = end


def _headers(source: _Source) -> Iterator[tuple[bytes, bytes, int]]:
    """Type, name and size of members, up to the good end. Who takes one reads its data before asking for the next."""
    everywhere: dict[bytes, bytes] = {}
    own: dict[bytes, bytes] = {}
    extended = 0
    for _ in range(MAX_HEADERS):
        block = source.exactly(BLOCK)
        if not block.strip(b"\0"):
            break
        kind, name, size = _header(block)
        if kind in (b"x", b"g", b"L", b"K"):
            extended += size
            _need(size <= MAX_EXTENSION and extended <= MAX_EXTENSIONS, "archive-too-large", "its extension headers")
            data = source.exactly(size)
            if kind == b"L":
                own.setdefault(b"path", data.partition(b"\0")[0])
            elif kind != b"K":
                (own if kind == b"x" else everywhere).update(_records(data))
        else:
            pax, own = {**everywhere, **own}, {}
            size = int(pax.get(b"size") or size)  # an empty value takes back that of a global header
            yield kind, pax.get(b"path") or name, size
        source.exactly(-size % BLOCK)
    else:
        raise BadArchive("archive-too-large", f"more than {MAX_HEADERS:,} headers")
    _need(not own and not source.exactly(BLOCK).strip(b"\0"), "archive-malformed", "its end marker is misplaced")
    while rest := source.some(CHUNK):
        _need(not rest.strip(b"\0"), "archive-malformed", "something follows its end marker")


# ---- Members

_FILES = (b"0", b"\0", b"7")
_FOLDER = b"5"
_OTHERS = {b"1": "hard link", b"2": "symbolic link", b"3": "device", b"4": "device", b"6": "FIFO", b"S": "sparse file"}


def _name(name: bytes, kind: bytes) -> str:
    """The name of a file or folder, without `./` before it."""
    text = name.decode("utf-8", "backslashreplace")
    shown, inside = repr(text[:100]), not text.startswith("/") and ".." not in text.split("/")
    _need(text.encode() == name, "archive-member", f"{shown} is not UTF-8")
    _need(inside, "archive-member", f"{shown} leads out of the folder")
    _need(kind in (_FOLDER, *_FILES), "archive-member", f"{shown} is a {_OTHERS.get(kind, 'file of unknown type')}")
    return re.sub(r"\A(?:\./+)+(?=[^/])", "", text)


def members(read: Read, limits: Limits = LIMITS) -> Iterator[Union[Member, bytes, None]]:
    """The regular files of the tar that `read` yields, until it yields b"" (AR-2, AR-3).

    Ends without an exception only where the end marker was seen, nothing but zeros behind it, and `read` has ended.
    Folders are skipped. Of several members with one name the last would count. Raises BadArchive, perhaps in the middle
    of a member; what `read` raises passes through. A limit holds for what is unpacked, whatever is claimed.
    """
    source = _Source(_counted(read, limits.total_bytes))
    files = 0
    for kind, raw_name, size in _headers(source):
        name = _name(raw_name, kind)
        if kind == _FOLDER or name.endswith("/"):  # before ustar there was no type for a folder
            _need(size == 0, "archive-malformed", "a folder has data")
            continue
        _need(name.rpartition("/")[2] not in ("", "."), "archive-member", "a file without a name")
        files += 1
        _need(files <= limits.files, "archive-too-large", f"more than {limits.files:,} files")
        _need(size <= limits.file_bytes, "archive-too-large", f"a file of more than {limits.file_bytes:,} bytes")
        yield Member(name, size)
        yield from source.data(size)
        yield None
    _need(files, "archive-empty")
