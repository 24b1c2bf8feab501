"""Downloads: DL-1 to DL-3, CH-2."""

from __future__ import annotations

import hashlib
import re
from typing import Optional
from urllib.parse import unquote

from conformance.core import expect, oracle
from conformance.core.registry import clause
from conformance.core.wire import Response
from conformance.kernelci.client import Client, field, file
from conformance.web.client import SAMPLE, payload


@clause("DL-01a", "download.public", writes=False)
def test_public(kci: Client) -> None:
    """No token, a wrong token: the same bytes."""
    path = kci.place()
    response = expect.status(kci.get(path), 200, context="without a token")
    expect.body(kci.get(path, Authorization="Bearer not.a.token"), response.body, "with a wrong token")
    if kci.run.options.profile != "readonly":
        expect.body(response, SAMPLE)


@clause("DL-01b", "download.decoded-once")
def test_decoded_once(kci: Client) -> None:
    """What is encoded twice is another object; + is no blank."""
    for name in ("a+b", "a b", "a%20b", "%25", "ü"):
        kci.stored(kci.key(name), name.encode())
    folder = "/" + kci.folder
    spelled = {
        "a+b": "a+b",
        "a%2Bb": "a+b",
        "a%20b": "a b",
        "a%2520b": "a%20b",
        "%2525": "%25",
        "%C3%BC": "ü",
        "%c3%bc": "ü",
    }
    for path, name in spelled.items():
        response = expect.status(kci.get(f"{folder}/{path}"), 200, context=f"GET …/{path}")
        expect.body(response, name.encode(), f"GET …/{path}")
    expect.status(kci.get(f"{folder}/a%252Bb"), 404, context="GET …/a%252Bb")


@clause("DL-01c", "download.slashes", writes=False)
def test_slashes(kci: Client) -> None:
    """Production URLs hold // in every place."""
    sample = kci.sample()
    doubled = sample.path.replace("/", "//")
    for path in (doubled, "/" + sample.path, "//" + sample.path):
        expect.body(expect.status(kci.get(path), 200, context=f"GET {path}"), sample.data)


@clause("DL-01d", "download.query", writes=False)
def test_query(kci: Client) -> None:
    """Cache busters and signatures change nothing."""
    sample = kci.sample()
    for query in ("?", "?a=b", "?path=/other&x=%2e%2e", "?a?b/c"):
        expect.body(expect.status(kci.get(sample.path + query), 200, context=query), sample.data)


# -------------------------------------------------------------------------------------------------------- headers


def disposition(response: Response) -> str:
    """The raw value of Content-Disposition as the UTF-8 it is."""
    return expect.header(response, "Content-Disposition").encode("latin-1").decode("utf-8", "backslashreplace")


@clause("DL-02a", "download.disposition")
def test_disposition(kci: Client) -> None:
    """Saved under the last segment of its key."""
    for name in ("plain.txt", "two words.txt", "gr\u00fcn \u20ac.txt", "a;b,c=d.txt"):
        kci.stored(kci.key(name), b"x")
        value = disposition(kci.download(kci.key(name)))
        expect.that(
            re.match(r'attachment;\s*filename="' + re.escape(name) + '"(;|$)', value) is not None,
            f'attachment; filename="{name}"',
            value,
        )


@clause("DL-02b", "download.disposition-star")
def test_disposition_star(kci: Client) -> None:
    """For clients that read names as latin-1."""
    name = "gr\u00fcn \u20ac.txt"
    kci.stored(kci.key(name), b"x")
    value = disposition(kci.download(kci.key(name)))
    match = re.search(r"filename\*=UTF-8''([!#$&+.^_`|~0-9A-Za-z%-]+)(;|$)", value)
    expect.equal(match and unquote(match[1]), name, f"filename* in {value}")


def _stored_as(kci: Client, name: str, sent: str) -> Optional[Response]:
    """Uploads under a filename with that quoting and finds the object; None where the server refuses the name.

    Servers differ in how they read a backslash in a quoted string (RFC 9110 5.6.4, WHATWG forms): both keys are tried.
    """
    answer = kci.post(field("path", kci.folder), file(sent, b"x"))
    if expect.status(answer, 200, 400, context=f"upload of {name!r}").status == 400:
        return None
    tried = [kci.download(kci.key(one)) for one in (name, sent)]
    return next((response for response in tried if response.status == 200), None)


@clause("DL-02c", "download.disposition-safe")
def test_disposition_safe(kci: Client) -> None:
    """A quote or a backslash in a key, where the server lets one in."""
    kci.stored(kci.key("plain"), b"x")
    expect.equal(disposition(kci.download(kci.key("plain"))), 'attachment; filename="plain"', "an ordinary name")
    for name, sent in (('q"uote', 'q\\"uote'), ("back\\slash", "back\\\\slash"), ('e; x="y', 'e; x=\\"y')):
        response = _stored_as(kci, name, sent)
        if response is not None:
            value = disposition(response)
            whole = re.fullmatch(r"""attachment; filename="[^"\\]*"(; filename\*=[!#$&+.^_`|~0-9A-Za-z%'-]+)?""", value)
            expect.that(whole is not None and "_" in value, "_ for each quote and backslash", value, repr(name))


@clause("DL-02e", "download.etag", writes=False)
def test_etag(kci: Client) -> None:
    """Strong, quoted, and the same on the next request."""
    sample = kci.sample()
    etag = expect.header(sample.response, "ETag")
    expect.that(oracle.entity_tags(etag) == [etag], "one entity tag in quotes", etag)
    expect.that(not etag.startswith("W/"), "a strong ETag", etag)
    expect.equal(expect.header(kci.get(sample.path), "ETag"), etag, "the ETag of the next GET")


@clause("DL-02g", "download.nosniff", writes=False)
def test_nosniff(kci: Client) -> None:
    """An uploaded log is never run as a page."""
    expect.equal(expect.header(kci.sample().response, "X-Content-Type-Options"), "nosniff", "X-Content-Type-Options")


@clause("DL-02h", "download.etag-changes")
def test_etag_changes(kci: Client) -> None:
    """Ten overwrites of one length, as fast as they go: ten tags."""
    key = kci.key("changing.bin")
    seen = []
    for number in range(10):
        kci.stored(key, f"version {number}".encode())
        response = kci.has(key, f"version {number}".encode())
        seen.append(expect.header(response, "ETag"))
    expect.equal(len(set(seen)), 10, "different ETags after ten overwrites")


# -------------------------------------------------------------------------------------------------------- missing


@clause("DL-03a", "missing.text", writes=False)
def test_missing(kci: Client) -> None:
    """Names what was looked for."""
    key = kci.key("no such object")
    response = expect.status(kci.download(key), 404)
    expect.text(response, f"Not Found: {key}")


@clause("DL-03b", "missing.folder")
def test_folder(kci: Client) -> None:
    """A folder that exists is no object."""
    kci.stored(kci.key("folder/a.txt"), b"x")
    kci.has(kci.key("folder/a.txt"), b"x")
    for path in ("folder", "folder/"):
        expect.status(kci.get(f"/{kci.folder}/{path}"), 404, context=f"GET …/{path}")


@clause("DL-03c", "missing.reserved")
def test_reserved(kci: Client) -> None:
    """The sidecar that the protocol page describes, in every spelling; an ordinary object beside it."""
    key = kci.stored(kci.key("object.txt"), b"x")
    sidecar = hashlib.sha512(key.encode()).hexdigest() + ".headers"
    for folder in (".metadata", "%2emetadata", "./.metadata", "/.metadata", ".%6Detadata", "x/../.metadata"):
        response = kci.get(f"/{folder}/{sidecar}")
        expect.status(response, 404, 400, context=f"GET /{folder}/…")
        expect.that(b"tag-owner" not in response.body, "no sidecar", response.text[:120])
    expect.status(kci.get("/.metadata"), 404, context="GET /.metadata")
    kci.has(key, b"x")


@clause("DL-03d", "missing.impossible", writes=False)
def test_impossible(kci: Client) -> None:
    """Out of the storage in all spellings of .., and bytes no key can hold."""
    up = ("../" * 8, "%2e%2e/" * 8, "..%2f" * 8, "a/" + "../" * 9, ".%2e/" * 8)
    paths = [f"/{steps}etc/passwd" for steps in up] + ["/a%00b", "/%ff%fe", "/a%0d%0ab", "/a\\..\\..\\b", "/%"]
    for path in paths:
        response = kci.get(path)
        expect.status(response, 404, 400, context=f"GET {path}")
        expect.that(b"root:" not in response.body, "nothing of the host", "a file of the host")
    sample = kci.sample()
    expect.body(kci.get(sample.path), sample.data)


# ---------------------------------------------------------------------------------------------------------- stale


@clause("CH-02a", "cache.never-stale")
def test_never_stale(kci: Client) -> None:
    """Downloaded, overwritten, and asked again in every way."""
    old, new = payload("old", 5000), payload("new", 6000)
    key = kci.stored(kci.key("warm.bin"), old)
    first = kci.has(key, old)
    etag = expect.header(first, "ETag")
    for _ in range(3):
        kci.has(key, old)
        expect.body(kci.download(key, Range="bytes=100-199"), old[100:200], "range before the overwrite")
        expect.status(kci.download(key, If_None_Match=etag), 304, context="If-None-Match before the overwrite")
    kci.stored(key, new)
    kci.has(key, new, "GET after the overwrite")
    part = expect.status(kci.download(key, Range="bytes=100-199"), 206, context="range after the overwrite")
    expect.body(part, new[100:200], "range after the overwrite")
    length = expect.header(kci.request("HEAD", "/" + key), "Content-Length")
    expect.equal(length, str(len(new)), "Content-Length of HEAD after the overwrite")
    expect.status(kci.download(key, If_None_Match=etag), 200, context="If-None-Match with the old ETag")
