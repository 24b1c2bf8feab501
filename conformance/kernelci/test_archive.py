"""Archives: AR-*."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import struct
import tarfile
from collections.abc import Sequence
from typing import Any, Optional

from conformance.core import expect
from conformance.core.registry import clause
from conformance.core.wire import Response
from conformance.kernelci.client import FORM_TYPE, Client, Part, field, file, form

ROUTE = "/v1/archive"
NEEDS = ("archive",)
Member = tuple[str, Optional[bytes]]  # a name and its content; None: a directory


def tar(members: Sequence[Member], *special: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive of those members, the special ones in the middle."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for number, (name, content) in enumerate(members):
            if number == 1:
                for one in special:
                    archive.addfile(one)
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        if len(members) < 2:
            for one in special:
                archive.addfile(one)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    """A zstd frame of raw blocks (RFC 8878): every decoder reads it and no library is needed to write it."""
    out = struct.pack("<IBB", 0xFD2FB528, 0x00, 0x58)  # no checksum, window of 2 MiB
    blocks = [data[at : at + 65536] for at in range(0, len(data), 65536)] or [b""]
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        out += struct.pack("<I", (len(block) << 3) | last)[:3] + block
    return out


GOOD: tuple[Member, ...] = (("a.txt", b"alpha"), ("sub/b.json", b"{}"))


def _sent(kci: Client, data: bytes, name: str = "files.tar", token: Optional[str] = None) -> Response:
    return kci.post(field("path", kci.folder), file(name, data, "archive"), route=ROUTE, token=token)


def _shape(response: Response) -> dict[str, Any]:
    expect.equal(expect.media_type(response)[0], "application/json", "the type of the answer")
    try:
        found = json.loads(response.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise expect.Violation("a JSON object", response.text[:120])
    return found


def _refused(
    kci: Client, data: bytes, context: str, *, name: str = "files.tar", status: tuple[int, ...] = (400,)
) -> Response:
    """Refused as a whole: not even the good members before the bad one are stored."""
    response = expect.status(_sent(kci, data, name), *status, context=context)
    for member, _ in GOOD:
        kci.has_not(kci.key(member), f"{member} after {context}")
    return response


def _accepted(kci: Client, data: bytes, context: str, *, name: str = "files.tar") -> dict[str, Any]:
    answer = _shape(expect.status(_sent(kci, data, name), 200, context=context))
    for member, content in GOOD:
        kci.has(kci.key(member), content or b"", f"{member} after {context}")
    return answer


@clause("AR-01a", "archive.tar", needs=NEEDS)
def test_tar(kci: Client) -> None:
    """Two files, one in a folder."""
    answer = _accepted(kci, tar(GOOD), "a plain tar")
    allowed = {"status": "ok", "uploaded": 2, "failed": 0, "bytes": 7, "prefix": kci.folder, "failures": []}
    for key, value in allowed.items():
        expect.equal(answer.get(key), value, f"{key} of the answer")


@clause("AR-01b", "archive.compressed", needs=NEEDS)
def test_compressed(kci: Client) -> None:
    """Every suffix of gzip and xz."""
    data = tar(GOOD)
    for suffix in ("tar.gz", "tgz"):
        _accepted(kci, gzip.compress(data), suffix, name=f"files.{suffix}")
    for suffix in ("tar.xz", "txz"):
        _accepted(kci, lzma.compress(data), suffix, name=f"files.{suffix}")


@clause("AR-01c", "archive.zstd", needs=NEEDS)
def test_zstd(kci: Client) -> None:
    """Both suffixes of zstd."""
    for suffix in ("tar.zst", "tzst"):
        _accepted(kci, zstd(tar(GOOD)), suffix, name=f"files.{suffix}")


@clause("AR-01d", "archive.member-type", needs=NEEDS)
def test_member_type(kci: Client) -> None:
    """The extension of the member, not of the archive."""
    _accepted(kci, tar(GOOD), "a plain tar")
    for member, allowed in (("a.txt", "text/plain"), ("sub/b.json", "application/json")):
        expect.equal(expect.media_type(kci.download(kci.key(member)))[0], allowed, f"the type of {member}")


@clause("AR-02a", "archive.skipped-entries", needs=NEEDS)
def test_skipped(kci: Client) -> None:
    """As `tar -C folder .` writes it, with a name long enough for a pax header."""
    long = "long/" + "n" * 120 + ".txt"
    members = (("./", None), ("./sub/", None), ("./a.txt", b"alpha"), ("./sub/b.json", b"{}"), (long, b"long"))
    answer = _accepted(kci, tar(members), "./ and directories")
    expect.equal(answer.get("uploaded"), 3, "uploaded")
    kci.has(kci.key(long), b"long")


@clause("AR-02b", "archive.traversal", needs=NEEDS)
def test_traversal(kci: Client) -> None:
    """One member leads out."""
    for name in ("../out.txt", "/etc/out.txt", "sub/../../out.txt"):
        _refused(kci, tar((*GOOD, (name, b"x"))), f"a member {name}")
    _accepted(kci, tar((*GOOD, ("in..side.txt", b"x"))), "a member with dots that are no segment")


@clause("AR-02c", "archive.special-members", needs=NEEDS)
def test_special(kci: Client) -> None:
    """One member is no file."""
    kinds = {
        "symlink": tarfile.SYMTYPE,
        "hard link": tarfile.LNKTYPE,
        "fifo": tarfile.FIFOTYPE,
        "device": tarfile.CHRTYPE,
    }
    for name, kind in kinds.items():
        special = tarfile.TarInfo("special")
        special.type = kind
        special.linkname = "a.txt" if "link" in name else ""
        _refused(kci, tar(GOOD, special), f"a {name}")
    _accepted(kci, tar(GOOD), "the same without it")


@clause("AR-02d", "archive.empty", needs=NEEDS)
def test_empty(kci: Client) -> None:
    """Nothing to store."""
    expect.status(_sent(kci, tar(())), 400, context="no member")
    expect.status(_sent(kci, tar((("only/", None),))), 400, context="only a directory")
    _accepted(kci, tar(GOOD), "with files")


@clause("AR-02e", "archive.suffix", needs=NEEDS)
def test_suffix(kci: Client) -> None:
    """The name says what it is."""
    for name in ("files.zip", "files", "files.tar.bz2", "tar"):
        _refused(kci, tar(GOOD), f"named {name}", name=name)
    body = form(field("path", kci.folder), Part("archive", tar(GOOD)))
    response = kci.request("POST", ROUTE, [kci.authorised(), FORM_TYPE], body)
    expect.status(response, 400, context="without a filename")
    _accepted(kci, tar(GOOD), "named files.tar")


@clause("AR-02f", "archive.truncated", needs=NEEDS)
def test_truncated(kci: Client) -> None:
    """What breaks off, at each of the places where tar libraries do not notice."""
    data = tar(GOOD)
    bad = bytearray(data)
    bad[1024] ^= 0xFF  # the header of the second member
    packed = gzip.compress(tar((*GOOD, ("big.bin", bytes(range(256)) * 400))))
    cases = (
        ("text", "files.tar", b"this is no archive\n" * 100),
        ("cut in the content", "files.tar", data[:1030]),
        ("cut behind the first member", "files.tar", data[:1024]),
        ("no end marker", "files.tar", data[: 512 * 4]),
        ("a damaged header", "files.tar", bytes(bad)),
        ("gzip cut short", "files.tar.gz", packed[: len(packed) - 30]),
        ("plain tar named .tar.gz", "files.tar.gz", data),
    )
    for context, name, content in cases:
        _refused(kci, content, context, name=name)
    _accepted(kci, data, "the whole archive")


@clause("AR-02g", "archive.refusal-shape", needs=NEEDS)
def test_refusal_shape(kci: Client) -> None:
    """The client reads JSON, whatever happened."""
    for context, name, data in (("no archive", "files.tar", b"x" * 600), ("suffix", "files.zip", tar(GOOD))):
        answer = _shape(_refused(kci, data, context, name=name))
        expect.equal(answer.get("status"), "error", f"status, {context}")
        expect.equal(answer.get("failed"), 1, f"failed, {context}")
        reasons = answer.get("failures")
        expect.that(isinstance(reasons, list) and len(reasons) == 1, "one reason in failures", reasons, context)


@clause("AR-02h", "archive.unauthorised", needs=NEEDS)
def test_unauthorised(kci: Client) -> None:
    """No token, and a token that may not write there."""
    response = expect.status(_sent(kci, tar(GOOD), token="not.a.token"), 401, context="a wrong token")
    expect.equal(_shape(response).get("status"), "error", "status of the 401")
    kci.has_not(kci.key("a.txt"), "after the 401")
    limited = kci.run.options.secrets.get("limited")
    if limited:
        response = expect.status(_sent(kci, tar(GOOD), token=limited), 403, context="outside the prefix")
        expect.equal(_shape(response).get("status"), "error", "status of the 403")
        kci.has_not(kci.key("a.txt"), "after the 403")
    _accepted(kci, tar(GOOD), "with the token")


@clause("AR-02i", "archive.invalid-utf8", needs=NEEDS)
def test_invalid_utf8(kci: Client) -> None:
    """One member name in latin-1."""
    bad = tar((*GOOD, ("gr\udcfcn.txt", b"x")), form=tarfile.GNU_FORMAT)
    expect.that(b"gr\xfcn" in bad, "a latin-1 name in the archive of the suite", "none")
    _refused(kci, bad, "a name that is not UTF-8")
    _accepted(kci, tar((*GOOD, ("gr\u00fcn.txt", b"x"))), "the name in UTF-8")


@clause("AR-03a", "archive.too-many", needs=NEEDS)
def test_too_many(kci: Client) -> None:
    """One file over the limit."""
    limit = kci.run.options.limits["files"]
    members = [*GOOD, *((f"many/{number}", b"") for number in range(limit - 1))]
    data = gzip.compress(tar(members, form=tarfile.GNU_FORMAT), 1)
    _refused(kci, data, f"{limit + 1} files", name="files.tgz", status=(400, 413))
    _accepted(kci, tar(GOOD), "two files")


@clause("AR-03b", "archive.member-too-large", needs=NEEDS, slow=True)
def test_member_too_large(kci: Client) -> None:
    """Small on the wire, large unpacked."""
    limit = kci.run.options.limits["member"]
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as packed:
        packed.write(tar(GOOD)[: 512 * 4])
        info = tarfile.TarInfo("zeros.bin")
        info.size = limit + 1
        packed.write(info.tobuf(tarfile.GNU_FORMAT))
        left = -(-info.size // 512) * 512 + 1024
        while left:
            packed.write(bytes(min(left, 1 << 20)))
            left -= min(left, 1 << 20)
    _refused(kci, out.getvalue(), "a member one byte over the limit", name="files.tar.gz", status=(400, 413))
    _accepted(kci, tar(GOOD), "small members")
