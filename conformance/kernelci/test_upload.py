"""Uploads: UP-1 to UP-7, UP-11."""

from __future__ import annotations

import gzip

from conformance.core import expect
from conformance.core.registry import clause
from conformance.core.verdict import Silent, Untestable
from conformance.core.wire import Response
from conformance.kernelci.client import (
    BOUNDARY,
    FORM_TYPE,
    Client,
    Part,
    field,
    file,
    form,
    path_of,
)
from conformance.web.client import payload

# ---------------------------------------------------------------------------------------------------- what is sent


@clause("UP-01a", "upload.basic")
def test_upload(kci: Client) -> None:
    """What every client does: path, file0, 200, and the object is there."""
    key = kci.key("hello.txt")
    kci.has_not(key, "before the upload")
    expect.status(kci.upload(key, b"hello"), 200)
    kci.has(key, b"hello")


@clause("UP-01a", "upload.routes")
def test_routes(kci: Client) -> None:
    """Both routes are the same."""
    for route in ("/upload", "/v1/file"):
        name = route.strip("/").replace("/", "-")
        response = kci.post(field("path", kci.folder), file(name, route.encode()), route=route)
        expect.status(response, 200, context=route)
        kci.has(kci.key(name), route.encode())


@clause("UP-01b", "upload.empty-answer")
def test_empty_answer(kci: Client) -> None:
    """Nothing is said when all is well."""
    expect.body(expect.status(kci.upload(kci.key("a.txt"), b"a"), 200), b"")
    kci.has(kci.key("a.txt"), b"a")


@clause("UP-01c", "upload.etag")
def test_upload_etag(kci: Client) -> None:
    """If an ETag is sent, it is that of the object."""
    key = kci.key("a.txt")
    response = expect.status(kci.upload(key, b"a"), 200)
    sent = response.get("ETag")
    if sent is None:
        raise Silent("no ETag in the answer, which is allowed")
    expect.equal(sent, expect.header(kci.download(key), "ETag"), "the ETag of the upload and of the download")


@clause("UP-02a", "upload.file-first")
def test_file_first(kci: Client) -> None:
    """As the dashboard ingester sends it."""
    where, what = field("path", kci.folder), file("first.txt", b"file first")
    expect.status(kci.post(what, where), 200, context="file0 before path")
    kci.has(kci.key("first.txt"), b"file first")


@clause("UP-02b", "upload.path-with-filename")
def test_path_with_filename(kci: Client) -> None:
    """The path part looks like a file, in both orders."""
    where = Part("path", kci.folder.encode(), b"path")
    for name, parts in (("a.txt", (where, file("a.txt", b"a"))), ("b.txt", (file("b.txt", b"b"), where))):
        expect.status(kci.post(*parts), 200, context="a path part with a filename")
        kci.has(kci.key(name), name[:1].encode())
    kci.has_not(kci.key("path"), "the path part as a file")


@clause("UP-05a", "upload.several-files")
def test_several_files(kci: Client) -> None:
    """kernelci-core's multi-file form."""
    files = [file(f"{number}.txt", str(number).encode(), f"file{number}") for number in range(3)]
    expect.status(kci.post(field("path", kci.folder), *files), 200)
    for number in range(3):
        kci.has(kci.key(f"{number}.txt"), str(number).encode())


@clause("UP-05b", "upload.other-fields")
def test_other_fields(kci: Client) -> None:
    """Fields of no meaning here, before, between and behind, one of them big."""
    extra = [field("comment", "c"), field("path2", "elsewhere"), field("notes", "n" * 70_000)]
    expect.status(kci.post(extra[0], field("path", kci.folder), extra[1], file("a.txt", b"a"), extra[2]), 200)
    kci.has(kci.key("a.txt"), b"a")


# ------------------------------------------------------------------------------------------------------------ keys


def _sent(kci: Client, path: str, filename: str, data: bytes = b"x") -> Response:
    return kci.post(field("path", path), file(filename, data))


def _refused(kci: Client, status: int, *parts: Part, context: str) -> Response:
    """Refused, and a twin of one change is accepted: the caller names only the change."""
    return expect.status(kci.post(*parts), status, context=context)


@clause("UP-03a", "key.no-path")
def test_no_path(kci: Client) -> None:
    """The filename is the key."""
    for name, parts in (("absent", ()), ("empty", (field("path", ""),)), ("slash", (field("path", "/"),))):
        key = kci.key(f"{name}.txt")
        expect.status(kci.post(*parts, file(key, name.encode())), 200, context=f"path {name}")
        kci.has(key, name.encode())


@clause("UP-03b", "key.normalised")
def test_normalised(kci: Client) -> None:
    """All spellings are one key."""
    for number, path in enumerate(("/{}", "{}/", "//{}//", "./{}/.", "/./{}/./", "{}/.//")):
        data = str(number).encode()
        spelled = path.format(kci.folder.replace("/", "//", 1))
        expect.status(_sent(kci, spelled, "same.txt", data), 200, context=f"path {spelled!r}")
        kci.has(kci.key("same.txt"), data, f"after path {spelled!r}")
    expect.status(_sent(kci, kci.folder, ".//same.txt", b"last"), 200, context="filename './/same.txt'")
    kci.has(kci.key("same.txt"), b"last", "after filename './/same.txt'")


@clause("UP-03c", "key.filename-folders")
def test_filename_folders(kci: Client) -> None:
    """curl -F file0=@folder/file keeps the folder."""
    expect.status(_sent(kci, kci.folder, "a/b/c.txt"), 200)
    kci.has(kci.key("a/b/c.txt"), b"x")


@clause("UP-03d", "key.ordinary-characters")
def test_ordinary(kci: Client) -> None:
    """Characters that careless servers decode or refuse."""
    for number, name in enumerate(
        ("a+b", "a=b", "~a", "a;b", "a,b", "a b", "100%", "a%20b", "%2e%2e", "ü€", "a..b", "...")
    ):
        data = f"{number}".encode()
        expect.status(_sent(kci, kci.folder, name, data), 200, context=f"filename {name!r}")
        kci.has(kci.key(name), data, f"filename {name!r}")
    expect.status(_sent(kci, kci.key("p+q %41"), "a", b"p"), 200, context="path 'p+q %41'")
    kci.has(kci.key("p+q %41/a"), b"p")


@clause("UP-03e", "key.invalid-utf8")
def test_invalid_utf8(kci: Client) -> None:
    """A name in latin-1, and the same in UTF-8."""
    where = field("path", kci.folder)
    expect.status(kci.post(where, file("gr\u00fcn", b"x")), 200, context="the name in UTF-8")
    latin = Part("file0", b"x", "gr\u00fcn".encode("latin-1"))
    expect.status(kci.post(where, latin), 400, context="the name in latin-1")
    path = Part("path", kci.folder.encode() + b"/\xff\xfe")
    expect.status(kci.post(path, file("a", b"x")), 400, context="a path that is not UTF-8")
    expect.status(kci.get(path_of(kci.folder) + "/gr%FCn"), 404, 400, context="GET of the name in latin-1")


@clause("UP-03f", "key.filename-star")
def test_filename_star(kci: Client) -> None:
    """Only the plain filename counts, wherever it stands."""
    star = Part("file0", b"x", b"plain.txt", b"; filename*=UTF-8''star.txt")
    expect.status(kci.post(field("path", kci.folder), star), 200)
    kci.has(kci.key("plain.txt"), b"x")
    kci.has_not(kci.key("star.txt"), "the name of filename*")


@clause("UP-04a", "key.dotdot")
def test_dotdot(kci: Client) -> None:
    """Up and out, in path and filename; dots elsewhere are ordinary."""
    expect.status(_sent(kci, f"{kci.folder}/a..b", "..c"), 200, context="dots that are no segment")
    for path, name in (
        (f"{kci.folder}/..", "up1"),
        (f"{kci.folder}/x/../y", "up2"),
        (kci.folder, "../up3"),
        ("..", "up4"),
    ):
        expect.status(_sent(kci, path, name), 400, context=f"path {path!r} filename {name!r}")
    for key in (
        f"{kci.run.options.namespace}/up1",
        kci.key("y/up2"),
        kci.key("up2"),
        f"{kci.run.options.namespace}/up3",
    ):
        kci.has_not(key)


@clause("UP-04b", "key.control")
def test_control(kci: Client) -> None:
    """Each by one byte."""
    where = field("path", kci.folder)
    expect.status(kci.post(where, Part("file0", b"x", b"a-b")), 200, context="an ordinary byte")
    for byte in (0x00, 0x01, 0x09, 0x1B, 0x7F):
        name = b"a" + bytes([byte]) + b"b"
        expect.status(kci.post(where, Part("file0", b"x", name)), 400, context=f"filename {name!r}")
        path = Part("path", kci.folder.encode() + b"/" + name)
        expect.status(kci.post(path, file("a", b"x")), 400, context=f"path {name!r}")
    for byte in (0x0A, 0x0D):
        path = Part("path", kci.folder.encode() + b"/a" + bytes([byte]) + b"b")
        expect.status(kci.post(path, file("a", b"x")), 400, context=f"path with {byte:#x}")


@clause("UP-04c", "key.long-segment")
def test_long_segment(kci: Client) -> None:
    """At the limit and one over it; bytes, not characters."""
    for good, bad in (("s" * 255, "s" * 256), ("\u00fc" * 127 + "s", "\u00fc" * 128)):
        expect.status(_sent(kci, kci.folder, good), 200, context="a segment of 255 bytes")
        kci.has(kci.key(good), b"x", "the object with a segment of 255 bytes")
        expect.status(_sent(kci, kci.folder, bad), 400, context="a segment of 256 bytes")


@clause("UP-04d", "key.long")
def test_long_key(kci: Client) -> None:
    """At the limit and one over it."""
    room = 1024 - len(kci.folder) - 1
    segments = ["d" * 200] * 9
    tail = "/".join(segments)[:room].rstrip("/")
    tail += "e" * (room - len(tail))
    expect.status(_sent(kci, kci.folder, tail), 200, context="a key of 1024 bytes")
    kci.has(kci.key(tail), b"x", "the object with a key of 1024 bytes")
    expect.status(_sent(kci, kci.folder, tail + "e"), 400, context="a key of 1025 bytes")


@clause("UP-04e", "key.reserved")
def test_reserved(kci: Client) -> None:
    """The server's own folder; the same name deeper is ordinary or refused, as the server likes."""
    expect.status(_sent(kci, kci.folder, "x.metadata"), 200, context="a name that only ends like it")
    for path, name in ((".metadata", "x"), ("", ".metadata/x"), ("/./.metadata", "x")):
        expect.status(_sent(kci, path, name), 400, context=f"path {path!r} filename {name!r}")


@clause("UP-04f", "key.shadowed")
def test_shadowed(kci: Client) -> None:
    """An object that no download could reach."""
    expect.status(_sent(kci, kci.folder, "metrics"), 200, context="the same name in a folder")
    for name in ("metrics", "upload", "v1/list", "v1/file", "v1/checkauth", "robots.txt", "favicon.ico"):
        expect.status(_sent(kci, "", name), 400, context=f"key {name!r}")


@clause("UP-04m", "key.empty")
def test_empty_key(kci: Client) -> None:
    """Nothing is left of the name."""
    expect.status(_sent(kci, "", kci.key("a")), 200, context="a name")
    for path, name in (("", "/"), ("/", "."), ("", "./"), ("", "//")):
        expect.status(_sent(kci, path, name), 400, context=f"path {path!r} filename {name!r}")


@clause("UP-04k", "key.file-as-folder")
def test_file_as_folder(kci: Client) -> None:
    """A file in the way of a folder, and a folder in the way of a file."""
    kci.stored(kci.key("a/file"), b"old")
    expect.status(kci.upload(kci.key("a/file/below"), b"x"), 409, context="a file where a folder is needed")
    expect.status(kci.upload(kci.key("a"), b"x"), 409, context="a folder where the file should be")
    kci.has(kci.key("a/file"), b"old", "the object in the way")
    kci.has_not(kci.key("a/file/below"))


# ----------------------------------------------------------------------------------------------------------- forms


@clause("UP-04g", "form.no-file")
def test_no_file(kci: Client) -> None:
    """A form with everything else."""
    where = field("path", kci.folder)
    expect.status(kci.post(where, file("a", b"x")), 200, context="with file0")
    expect.status(kci.post(where), 400, context="without file0")
    expect.status(kci.post(where, field("other", "x")), 400, context="with another field instead")


@clause("UP-04h", "form.no-filename")
def test_no_filename(kci: Client) -> None:
    """file0 as a text field, or with an empty filename."""
    where = field("path", kci.folder)
    expect.status(kci.post(where, file("a", b"x")), 200, context="with a filename")
    expect.status(kci.post(where, field("file0", "x")), 400, context="file0 without a filename")
    expect.status(kci.post(where, file("", b"x")), 400, context="an empty filename")
    kci.has_not(kci.folder, "the folder as an object")


def _malformed(kci: Client) -> tuple[tuple[str, tuple[str, str], bytes], ...]:
    """Name, content type and body; each one mutation away from a good form."""
    good = form(field("path", kci.folder), file("bad.txt", b"x"))
    ending = f"--{BOUNDARY}--\r\n".encode()
    return (
        ("no boundary parameter", ("Content-Type", "multipart/form-data"), good),
        ("another boundary", ("Content-Type", "multipart/form-data; boundary=other"), good),
        ("no end boundary", FORM_TYPE, good[: -len(ending)]),
        ("not a form", ("Content-Type", "application/json"), b"{}"),
        ("an empty body", FORM_TYPE, b""),
        ("a part without Content-Disposition", FORM_TYPE, good.replace(b"Content-Disposition", b"X-Other")),
    )


@clause("UP-04i", "form.malformed")
def test_malformed(kci: Client) -> None:
    """Each form differs from a good one by one mutation."""
    good = form(field("path", kci.folder), file("good.txt", b"x"))
    response = kci.request("POST", "/v1/file", [kci.authorised(), FORM_TYPE], good)
    expect.status(response, 200, context="the good form")
    for name, kind, body in _malformed(kci):
        response = kci.request("POST", "/v1/file", [kci.authorised(), kind], body)
        expect.status(response, 400, 415, context=name) if kind[1] == "application/json" else expect.status(
            response, 400, context=name
        )
        kci.has_not(kci.key("bad.txt"), f"after {name}")


@clause("UP-04l", "form.reason")
def test_reason(kci: Client) -> None:
    """A person who reads the answer knows what to mend."""
    response = expect.status(kci.post(field("path", kci.folder)), 400)
    lines = response.text.strip().splitlines()
    expect.that(len(lines) == 1 and 0 < len(lines[0]) < 200, "one line", response.text[:200])


@clause("UP-04j", "form.short-body")
def test_short_body(kci: Client) -> None:
    """The client stops sending in the middle and waits for an answer."""
    key = kci.key("short.txt")
    body = form(field("path", kci.folder), file("short.txt", b"x" * 1000))
    for name, declared, sent in (
        ("cut", len(body), len(body) - 400),
        ("whole form, more declared", len(body) + 9, len(body)),
    ):
        connection = kci.connection()
        sized = [kci.authorised(), FORM_TYPE, ("Content-Length", str(declared))]
        connection.send(kci.head("POST", "/v1/file", sized) + body[:sent])
        connection.finish_sending()
        if connection.answered_within(kci.patience.ceiling("early")) and not connection.ended_within(0):
            expect.status(connection.receive("POST"), 400, 408, context=name)
        connection.close()
        kci.has_not(key, name)
    expect.status(kci.upload(key, b"x"), 200, context="the whole body")


# ----------------------------------------------------------------------------------------------------------- types

TYPES = {
    "bin": "application/octet-stream",
    "txt": "text/plain",
    "log": "text/plain",
    "gz": "application/gzip",
    "tar": "application/x-tar",
    "zip": "application/zip",
    "tgz": "application/x-gzip",
    "xz": "application/x-xz",
    "lz": "application/x-lzip",
    "json": "application/json",
}


def _type(kci: Client, name: str, **headers: str) -> str:
    kci.stored(kci.key(name), b"x", **headers)
    return expect.media_type(expect.status(kci.download(kci.key(name)), 200))[0]


@clause("UP-06a", "type.extension")
def test_type_table(kci: Client) -> None:
    """The whole table."""
    for extension, allowed in TYPES.items():
        expect.equal(_type(kci, f"file.{extension}"), allowed, f"the type of .{extension}")


@clause("UP-06b", "type.header")
def test_type_header(kci: Client) -> None:
    """The uploader knows better."""
    expect.equal(
        _type(kci, "a.txt", Content_Type_Upstream="application/x-special"), "application/x-special", "the type"
    )
    expect.equal(_type(kci, "b.txt"), "text/plain", "the type without the header")


@clause("UP-06c", "type.unknown")
def test_type_unknown(kci: Client) -> None:
    """No extension, or one that nobody knows."""
    for name in ("noextension", "a.unknown-extension", "Image"):
        expect.equal(_type(kci, name), "application/octet-stream", f"the type of {name}")


@clause("UP-06d", "type.no-encoding")
def test_no_encoding(kci: Client) -> None:
    """A client that asks for gzip must not get the file unpacked."""
    data = gzip.compress(b"kernel log\n" * 200)
    for name in ("log.txt.gz", "root.tgz"):
        kci.stored(kci.key(name), data)
        response = expect.status(kci.download(kci.key(name), Accept_Encoding="gzip, deflate, br"), 200)
        expect.no_header(response, "Content-Encoding", name)
        expect.body(response, data)


@clause("UP-06e", "type.standard")
def test_type_standard(kci: Client) -> None:
    """Types that every table has."""
    for name, allowed in (("a.html", "text/html"), ("a.png", "image/png"), ("a.pdf", "application/pdf")):
        expect.equal(_type(kci, name), allowed, f"the type of {name}")


# ----------------------------------------------------------------------------------------------------------- sizes


def _begun(kci: Client, length: int, *more: tuple[str, str]) -> Response:
    """The first answer to an upload of which only the head was sent, an interim one included."""
    connection = kci.connection()
    sized = [kci.authorised(), FORM_TYPE, ("Content-Length", str(length)), ("Expect", "100-continue"), *more]
    connection.send(kci.head("POST", "/v1/file", sized))
    head = connection.receive_one_head()
    body, framing = (b"", "none") if head.status < 200 else connection.receive_body(head, "POST")
    return Response(head.minor, head.status, head.headers, body, framing)


@clause("UP-07a", "size.too-large", direct=True)
def test_too_large(kci: Client) -> None:
    """Said before a byte of the body is sent."""
    limit = kci.run.options.limits["upload"]
    expect.status(_begun(kci, 1000), 100, context="Content-Length 1000")
    over = limit + (64 << 20)  # a server may allow for the other fields of the form
    expect.status(_begun(kci, over), 413, context="Content-Length 64 MiB over the limit")
    expect.status(_begun(kci, 1 << 50), 413, context="Content-Length of a PiB")


@clause("UP-07b", "size.chunked")
def test_chunked(kci: Client) -> None:
    """In chunks of odd sizes, with an extension and a trailer."""
    data = payload("chunked", 100_000)
    body = form(field("path", kci.folder), file("chunked.bin", data))
    cuts = [0, 1, 2, 40, 300, 301, 65_000, len(body)]
    chunks = [body[a:b] for a, b in zip(cuts, cuts[1:])]
    coded = b"".join(b"%x;note=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nX-Trailer: 1\r\n\r\n"
    connection = kci.connection()
    connection.send(
        kci.head("POST", "/v1/file", [kci.authorised(), FORM_TYPE, ("Transfer-Encoding", "chunked")]) + coded
    )
    expect.status(connection.receive("POST"), 200)
    kci.has(kci.key("chunked.bin"), data)


@clause("UP-07c", "size.expect-continue", direct=True)
def test_expect_continue(kci: Client) -> None:
    """The client waits to be asked for the body."""
    key = kci.key("continued.txt")
    body = form(field("path", kci.folder), file("continued.txt", b"continued"))
    expecting = [FORM_TYPE, ("Content-Length", str(len(body))), ("Expect", "100-continue")]
    connection = kci.connection()
    connection.send(kci.head("POST", "/v1/file", [*expecting, kci.authorised()]))
    expect.equal(connection.receive_one_head().status, 100, "the first answer, with a token")
    connection.send(body, opening=False)
    expect.status(connection.receive("POST"), 200)
    kci.has(key, b"continued")
    other = kci.connection()
    other.send(kci.head("POST", "/v1/file", expecting))
    expect.equal(other.receive_one_head().status, 401, "the first answer, without a token")


@clause("UP-07d", "size.four-gigabytes", direct=True)
def test_four_gigabytes(kci: Client) -> None:
    """The head of a great upload is let in; its body is never sent."""
    if kci.run.options.limits["upload"] < 4_000_000_000:
        raise Untestable("the limit of uploads was given as lower")
    response = _begun(kci, 4_000_000_000)
    if response.status == 507:
        raise Untestable("the server has no space for 4 GB")
    expect.status(response, 100)


@clause("UP-07e", "size.round-trip")
def test_round_trip(kci: Client) -> None:
    """Contents that careless parsers change."""
    tricky = f"\r\n--{BOUNDARY[:-1]}\r\n-{BOUNDARY}\r\n{BOUNDARY}--\r\n--\r\n\r\n\n--{BOUNDARY}".encode()
    contents = {
        "empty": b"",
        "crlf": b"\r\n",
        "all-bytes": bytes(range(256)) * 3,
        "boundary-like": tricky * 40,
        "large": payload("large", 5 * (1 << 20) + 3),
    }
    for name, data in contents.items():
        expect.status(kci.upload(kci.key(name), data), 200, context=name)
        kci.has(kci.key(name), data, name)


@clause("UP-11", "refusal.reaches-client", writes=False)
def test_refusal_reaches(kci: Client) -> None:
    """A plain client writes its whole body before it reads; the answer must still be there."""
    expect.status(kci.get("/"), 200, context="the twin that needs no token")
    body = form(field("path", kci.folder), file("big.bin", payload("big", 6 << 20)))
    for attempt in range(3):
        connection = kci.connection()
        whole = connection.send(kci.head("POST", "/v1/file", [FORM_TYPE, ("Content-Length", str(len(body)))]) + body)
        expect.that(whole, "a server that takes 6 MiB, or closes without a reset", "a reset while sending")
        expect.status(connection.receive("POST"), 401, context=f"6 MiB without a token, attempt {attempt + 1}")
