"""Many at once, and uploads that break off: SO-4."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Callable

from conformance.core import expect, linearize
from conformance.core.history import NOTHING, History
from conformance.core.registry import clause
from conformance.core.wire import Closed, Connection, Headers, Response
from conformance.stor.client import Client, path_of, paths, sha256
from conformance.web.client import HALF

CLIENTS, OPERATIONS, NAMES = 6, 60, 8


@clause("SO-04c", "atomic.under-way", direct=True)
def test_under_way(stor: Client) -> None:
    """Half of the body is on the wire while it is asked for, again and again for a window; then the gate opens."""
    data = stor.fresh("object", 2 * HALF)
    held = stor.half_sent(data)
    methods = itertools.cycle(("GET", "HEAD"))

    def missing() -> None:
        method = next(methods)
        probe = stor.connection()
        probe.send(stor.head(method, path_of(data)))
        at_once = probe.answered_within(stor.patience.ceiling("early"))
        expect.that(at_once, "404 at once", "nothing", f"{method} during the upload")
        expect.status(probe.receive(method), 404, context=f"{method} during the upload")

    stor.patience.throughout(missing)
    expect.status(held.open(), 201, context="the upload")
    stor.has(data, "after the upload")


@clause("SO-04d", "atomic.abort", direct=True)
def test_abort(stor: Client) -> None:
    """Every way to go away in the middle; then a whole upload of the name."""
    ways: dict[str, Callable[[Connection], None]] = {
        "close": Connection.close,
        "reset": Connection.reset,
        "end of sending": Connection.finish_sending,
    }
    for name, leave in ways.items():
        data = stor.fresh(name, 2 * HALF)
        held = stor.half_sent(data)
        leave(held.connection)
        held.connection.close()
        stor.has_not(data, f"after {name}")
        expect.status(stor.store(data), 201, context=f"a whole upload after {name}")
        stor.has(data)


@clause("SO-04e", "atomic.short", direct=True)
def test_short(stor: Client) -> None:
    """All the right bytes came, and more were announced; the last chunk of a coding is missing."""
    framings: dict[str, Callable[[bytes], tuple[Headers, bytes]]] = {
        "a length": lambda data: ([("Content-Length", str(len(data) + 10))], data),
        "chunks": lambda data: ([("Transfer-Encoding", "chunked")], b"%x\r\n%s\r\n" % (len(data), data)),
    }
    for name, framed in framings.items():
        data = stor.fresh(name)
        headers, body = framed(data)
        connection = stor.connection()
        connection.send(stor.post_head(path_of(data), headers) + body)
        connection.finish_sending()
        try:
            response = connection.receive("POST")
            expect.that(response.status >= 400, "a refusal, or the end", expect.describe(response), name)
        except Closed:
            stor.transcript.note("closed without an answer, which is allowed")
        stor.has_not(data, f"after a body that ended early, by {name}")
        expect.status(stor.store(data), 201, context="the whole body")


@clause("SO-04f", "atomic.survives-restart", alone=True)
def test_survives_restart(stor: Client) -> None:
    """Answered 201, killed at once, started again by the lever."""
    stor.lever("restart")
    objects = [stor.fresh(str(number), 300_000) for number in range(5)]
    for data in objects:
        stor.stored(data)
    stor.restart()
    for data in objects:
        stor.has(data, "after the restart")
        expect.status(stor.store(data), 200, context="a POST after the restart")


# -------------------------------------------------------------------------------------------------------- together


def _one_stores(stor: Client, data: bytes, calls: Sequence[Callable[[], Response]], what: str) -> None:
    found: list[int] = []

    def counted(call: Callable[[], Response]) -> Callable[[], None]:
        return lambda: found.append(call().status)

    stor.together(*(counted(call) for call in calls))
    expect.equal(sorted(found), [200] * (len(calls) - 1) + [201], f"the statuses of {len(calls)} {what} at once")
    stor.has(data, f"after {what} at once")


@clause("SO-04g", "together.one-stores")
def test_one_stores(stor: Client) -> None:
    """Six clients with the same bytes, their bodies half sent when the gates open; six that send all at once."""
    data = stor.fresh("gated", 200_000)
    held = [stor.half_sent(data) for _ in range(CLIENTS)]
    _one_stores(stor, data, [one.open for one in held], "held uploads")
    for number in range(4):
        small = stor.fresh(f"small {number}", 20_000)

        def store(data: bytes = small) -> Response:
            return stor.store(data)

        _one_stores(stor, small, [store] * CLIENTS, "uploads")


@clause("SO-04h", "together.other-fails")
def test_other_fails(stor: Client) -> None:
    """The first is half sent when the second comes whole; then the first breaks off, or was wrong all the time."""
    for way in ("breaks off", "is wrong"):
        data = stor.fresh(way, 60_000)  # a server that lets the second wait need not take its bytes
        held = stor.half_sent(data if way == "breaks off" else data[:-1] + b"?", path_of(data))
        second = stor.connection()
        second.send(stor.post_head(path_of(data), [("Content-Length", str(len(data)))]) + data)
        second.answered_within(1.0)  # a server may answer now, or keep it waiting for the first
        if way == "breaks off":
            held.connection.close()
        else:
            # The second may have stored the name by now: then what the first sends is not looked at.
            expect.status(held.open(), 412, 200, context="the wrong one")
        response = expect.status(second.receive("POST"), 201, context=f"the whole upload beside one that {way}")
        paths(response, "the 201")
        stor.has(data, f"beside one that {way}")


@clause("SO-04i", "together.independent", direct=True)
def test_independent(stor: Client) -> None:
    """One upload dribbles, one reader has stopped reading: others are served."""
    sample = stor.fresh("large", 8 * HALF)
    stor.stored(sample)
    slow = stor.connection(receive_buffer=16384)
    slow.send(stor.head("GET", path_of(sample)))
    head, _ = slow.receive_head()
    held = stor.half_sent(stor.fresh("held", 2 * HALF))
    for number in range(3):
        data = stor.fresh(f"other {number}")
        for name, message, status in (
            ("a POST", stor.post_head(path_of(data), [("Content-Length", str(len(data)))]) + data, 201),
            ("a GET", stor.head("GET", path_of(data)), 200),
            ("a GET of what is being read", stor.head("GET", path_of(sample), [("Range", "bytes=0-9")]), 206),
        ):
            probe = stor.connection()
            probe.send(message)
            at_once = probe.answered_within(stor.patience.ceiling("early"))
            expect.that(at_once, "an answer beside slow peers", "none", name)
            expect.status(probe.receive(), status, context=name)
            probe.close()
    expect.status(held.open(), 201, context="the slow upload")
    expect.equal(slow.receive_body(head, "GET")[0] == sample, True, "the slow reader has the whole")


def _operations(stor: Client, history: History, objects: list[bytes], number: int, share: int) -> None:
    """One client: POST, GET and HEAD over all names, in an order of its own."""
    for step in range(share):
        data = objects[(step * 5 + number * 3) % len(objects)]
        key, begun = sha256(data), History.now()
        kind = (step + number) % 3
        if kind == 0:
            response = expect.status(stor.store(data), 200, 201, context="a POST among many")
            # A 201 is the one write of the name; a 200 saw that it was there.
            history.add(number, key, response.status == 201, key, begun)
        else:
            response = stor.request("GET" if kind == 1 else "HEAD", path_of(data))
            expect.status(response, 200, 404, context="a read among many")
            if kind == 1 and response.status == 200:
                expect.body(response, data, "a read among many")
            history.add(number, key, False, key if response.status == 200 else NOTHING, begun)


@clause("SO-04j", "together.linearizable")
def test_linearizable(stor: Client) -> None:
    """Six clients on eight names, again and again: every answer fits one order, each name stored once."""
    rounds = max(1, 3 * min(stor.run.options.examples, 60) // 60)
    for turn in range(rounds):
        history = History()
        objects = [stor.fresh(f"{turn} {number}", 3000 + number) for number in range(NAMES)]

        def client(number: int, history: History = history, objects: list[bytes] = objects) -> Callable[[], None]:
            return lambda: _operations(stor, history, objects, number, OPERATIONS // 2)

        stor.together(*(client(number) for number in range(CLIENTS)))
        for key, operations in history.by_key().items():
            created = sum(operation.write for operation in operations)
            expect.equal(created, 1, f"POSTs of {key} answered 201")
        found = linearize.anomalies(history)
        expect.that(not found, "a linearizable history", "; ".join(found)[:400], f"round {turn + 1}")
