"""Storing: SO-3."""

from __future__ import annotations

from conformance.core import expect
from conformance.core.registry import clause
from conformance.stor.client import EXPECT, Client, listed, path_of, paths, sha256

CHUNKED = ("Transfer-Encoding", "chunked")


def _chunks(data: bytes, size: int) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%X\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@clause("SO-03j", "post.created")
def test_created(stor: Client) -> None:
    """Not there, stored, there."""
    for size in (1, 1000, 70_000):
        data = stor.fresh(f"{size} bytes", size + 200)
        stor.has_not(data, "before")
        expect.status(stor.store(data), 201, context=f"POST of {len(data)} bytes")
        stor.has(data, "after")


@clause("SO-03k", "post.chunked")
def test_chunked(stor: Client) -> None:
    """One chunk, many, and odd ones with an extension and a trailer."""
    for name, size in {"one": 5000, "many": 100, "single bytes": 1}.items():
        data = stor.fresh(name)
        connection = stor.connection()
        connection.send(stor.post_head(path_of(data), [CHUNKED]) + _chunks(data, size))
        expect.status(connection.receive("POST"), 201, context=name)
        stor.has(data, name)
    data = stor.fresh("extension")
    coded = b"%x;a=b\r\n%s\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(data), data)
    connection = stor.connection()
    connection.send(stor.post_head(path_of(data), [CHUNKED]) + coded)
    expect.status(connection.receive("POST"), 201, context="with an extension and a trailer")
    stor.has(data)


@clause("SO-03l", "post.stored")
def test_stored(stor: Client) -> None:
    """The second time, in either framing."""
    data = stor.fresh("object")
    expect.status(stor.store(data), 201, context="the first time")
    expect.status(stor.store(data), 200, context="the second time")
    connection = stor.connection()
    connection.send(stor.post_head(path_of(data), [CHUNKED]) + _chunks(data, 300))
    expect.status(connection.receive("POST"), 200, context="chunked")
    stor.has(data)


@clause("SO-03m", "post.stored.expect", direct=True)
def test_stored_expect(stor: Client) -> None:
    """curl asks first, as it does for a megabyte and more: nothing has to be sent."""
    data = stor.fresh("object", 300_000)
    stor.stored(data)
    for framing in (("Content-Length", str(len(data))), CHUNKED):
        connection = stor.connection()
        connection.send(stor.post_head(path_of(data), [framing, EXPECT]))
        at_once = connection.answered_within(stor.patience.ceiling("early"))
        expect.that(at_once, "200 at once", "nothing", framing[0])
        head = connection.receive_one_head()
        expect.equal(head.status, 200, f"{framing[0]}: the first answer")
        listed(connection.receive_body(head, "POST")[0], framing[0])
        connection.close()


@clause("SO-03n", "post.expect", direct=True)
def test_expect(stor: Client) -> None:
    """Asks, waits for the word, sends."""
    for number, size in enumerate((1000, 300_000)):
        data = stor.fresh(f"object {number}", size)
        connection = stor.connection()
        connection.send(stor.post_head(path_of(data), [("Content-Length", str(len(data))), EXPECT]))
        early = connection.answered_within(stor.patience.ceiling("early"))
        expect.that(early, "100 Continue", "nothing")
        expect.equal(connection.receive_one_head().status, 100, "the first answer")
        connection.send(data, opening=False)
        expect.status(connection.receive("POST"), 201, context="after the body")
        stor.has(data)


@clause("SO-03o", "post.mismatch")
def test_mismatch(stor: Client) -> None:
    """One byte more, one less, one changed, none at all. The text tells both hashes."""
    for name in ("more", "less", "changed", "none"):
        data = stor.fresh(name)
        sent = {"more": data + b"x", "less": data[:-1], "changed": data[:-1] + bytes([data[-1] ^ 1]), "none": b""}[name]
        response = expect.status(stor.post(path_of(data), sent), 412, context=f"bytes: {name}")
        told = f"Content sha256 {sha256(sent)} doesn't match given sha256 {sha256(data)}"
        expect.text(response, told, f"bytes: {name}")


@clause("SO-03p", "post.mismatch-leaves-nothing")
def test_mismatch_leaves_nothing(stor: Client) -> None:
    """Asked under both hashes, then stored by both names."""
    for framing in ("length", "chunks"):
        data, other = stor.fresh(f"named, {framing}"), stor.fresh(f"sent, {framing}")
        head = [("Content-Length", str(len(other)))] if framing == "length" else [CHUNKED]
        connection = stor.connection()
        body = other if framing == "length" else _chunks(other, 300)
        connection.send(stor.post_head(path_of(data), head) + body)
        expect.status(connection.receive("POST"), 412, context=f"by {framing}")
        for one in (data, other):
            stor.has_not(one, f"after the mismatch by {framing}")
            expect.status(stor.store(one), 201, context="the right bytes")
            stor.has(one)


@clause("SO-03q", "post.empty")
def test_empty(stor: Client) -> None:
    """By a length of 0, by no chunk, and by no framing at all, which means none (RFC 9112 6.3)."""
    path = path_of(b"")
    chunked = stor.connection()
    chunked.send(stor.post_head(path, [CHUNKED]) + b"0\r\n\r\n")
    unframed = stor.connection()
    unframed.send(stor.post_head(path))
    for response in (stor.post(path, b""), chunked.receive("POST"), unframed.receive("POST")):
        paths(expect.status(response, 200, 201, context="POST of nothing"), "POST of nothing")
    response = stor.has(b"")
    expect.equal(expect.header(response, "Content-Length"), "0", "Content-Length")
    expect.equal(expect.header(response, "ETag"), f'"{path[1:]}"', "ETag")
    missing = stor.fresh("something")
    expect.status(stor.post(path_of(missing), b""), 412, context="nothing under the name of something")


@clause("SO-03r", "post.paths")
def test_paths(stor: Client) -> None:
    """Where it was put, and where it is found: the same places, each once."""
    data = stor.fresh("object")
    first = paths(expect.status(stor.store(data), 201), "the 201")
    expect.equal(len(set(first)), len(first), "different paths in the 201")
    for _ in range(3):
        again = paths(expect.status(stor.store(data), 200), "the 200")
        expect.equal(sorted(again), sorted(first), "the paths in the 200")


@clause("SO-03t", "post.no-room", direct=True)
def test_no_room(stor: Client) -> None:
    """A hundred petabytes."""
    connection = stor.connection()
    data = stor.post_head(path_of(stor.fresh("giant")), [("Content-Length", str(10**17)), EXPECT])
    connection.send(data)
    at_once = connection.answered_within(stor.patience.ceiling("early"))
    expect.that(at_once, "507 before the body", "nothing")
    status = connection.receive_one_head().status
    expect.that(status in (507, 413), "507 or 413", status, "the first answer")


@clause("SO-04a", "post.large")
def test_large(stor: Client) -> None:
    """More than 16 MiB, where frameworks draw a line."""
    for framing in ("length", "chunks"):
        data = stor.fresh(framing, 17 << 20)
        connection = stor.connection()
        head = [("Content-Length", str(len(data)))] if framing == "length" else [CHUNKED]
        connection.send(stor.post_head(path_of(data), head))
        connection.send(data if framing == "length" else _chunks(data, 1 << 20), opening=False)
        expect.status(connection.receive("POST"), 201, context=f"17 MiB by {framing}")
        stor.has(data, f"17 MiB by {framing}")
