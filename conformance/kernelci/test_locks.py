"""Locks, atomicity and order: UP-8, UP-9, DL-6. Gates instead of sleeps."""

from __future__ import annotations

from typing import Callable, Optional

from conformance.core import expect, linearize, lockmodel, poll
from conformance.core.history import FOREVER, NOTHING, History
from conformance.core.lockmodel import Answered, Hold
from conformance.core.registry import clause
from conformance.core.wire import Connection, Response, WireError
from conformance.kernelci.client import FORM_TYPE, Client, field, file, form, path_of
from conformance.web.client import HALF, Held, payload

ROUNDS = 3  # of a probe whose hold did not show long enough
CLIENTS, OPERATIONS, KEYS = 8, 200, 5


def _second(kci: Client, path: str, filename: str, data: bytes) -> Connection:
    """An upload that is wholly sent and not yet read."""
    body = form(field("path", path), file(filename, data))
    connection = kci.connection()
    sized = [kci.authorised(), FORM_TYPE, ("Content-Length", str(len(body)))]
    connection.send(kci.head("POST", "/v1/file", sized) + body)
    return connection


def _probed(held: Held, key: str, probe: Connection, begun: float) -> bool:
    """Whether the second upload kept to the lock while the first was held.

    False when the hold did not last as long as the probe, so that nothing was shown. Raises Violation.
    """
    if not probe.answered_within(poll.WINDOW):
        return True
    response = probe.receive("POST")
    answered = Answered(key, True, begun, History.now(), response.status == 200)
    if not held.shows():
        return False
    broken = lockmodel.violations([Hold(key, held.begun, History.now())], [answered])
    expect.that(not broken, "409, or no answer until the first upload ends", broken)
    expect.status(response, 409, context="the second upload")
    return True


def _exclusive(kci: Client, spellings: dict[str, str]) -> None:
    """Holds each key and probes it by another spelling (path -> filename) of it."""
    key = kci.key("held.bin")
    for path, filename in spellings.items():
        for _ in range(ROUNDS):
            with kci.holding(key) as held:
                begun = History.now()
                probe = _second(kci, path, filename, b"second")
                kept = _probed(held, key, probe, begun)
                expect.status(held.open(), 200, context="the first upload")
                if kept:
                    break
        else:
            raise expect.Violation("a lock that lasts as long as the upload", "it ended before", f"path {path!r}")


@clause("UP-09a", "lock.exclusive", direct=True)
def test_exclusive(kci: Client) -> None:
    """Half of the first upload is on the wire when the second is sent whole."""
    _exclusive(kci, {kci.folder: "held.bin"})


@clause("UP-09g", "lock.per-key", direct=True)
def test_per_key(kci: Client) -> None:
    """The second upload spells the same key otherwise."""
    _exclusive(kci, {f"/{kci.folder}/": "held.bin", f"./{kci.folder}": ".//held.bin", "": kci.key("held.bin")})


@clause("UP-09b", "lock.waits", direct=True)
def test_waits(kci: Client) -> None:
    """The gate opens, the first upload ends, and the second follows."""
    key = kci.key("held.bin")
    with kci.holding(key) as held:
        probe = _second(kci, kci.folder, "held.bin", b"second")
        expect.that(not probe.answered_within(poll.WINDOW), "no answer while the first upload is under way", "one")
        expect.status(held.open(), 200, context="the first upload")
        expect.status(probe.receive("POST"), 200, context="the second upload")
    kci.has(key, b"second", "after both")


@clause("UP-09f", "lock.independent", direct=True)
def test_independent(kci: Client) -> None:
    """Other keys, in the same folder and elsewhere, while one is held."""
    with kci.holding(kci.key("held.bin")) as held:
        for name in ("other.bin", "held.bin.2", "sub/held.bin"):
            path, _, filename = kci.key(name).rpartition("/")
            probe = _second(kci, path, filename, b"other")
            early = probe.answered_within(kci.patience.ceiling("early"))
            expect.that(early, "an answer while another key is held", "none", name)
            expect.status(probe.receive("POST"), 200, context=name)
            kci.has(kci.key(name), b"other")
        expect.that(held.shows(), "the first upload still under way", "it ended")


def _free(kci: Client, key: str, context: str) -> None:
    """The key can be written at once. A 409 only says that the server has not heard yet that the uploader is gone."""
    path, _, filename = key.rpartition("/")

    def written() -> Optional[Response]:
        probe = _second(kci, path, filename, b"next")
        early = probe.answered_within(kci.patience.ceiling("early"))
        expect.that(early, "an answer at once", "none", context)
        response = expect.status(probe.receive("POST"), 200, 409, context=context)
        return response if response.status == 200 else None

    kci.patience.eventually("early", written, f"200 for {context}")
    kci.has(key, b"next")


@clause("UP-09d", "lock.freed", direct=True)
def test_freed(kci: Client) -> None:
    """The uploader goes away, politely and not."""
    leave: dict[str, Callable[[Held], None]] = {
        "close": lambda held: held.connection.close(),
        "reset": lambda held: held.connection.reset(),
    }
    for name, leaving in leave.items():
        key = kci.key(f"{name}.bin")
        with kci.holding(key) as held:
            leaving(held)
            _free(kci, key, f"an upload after the {name} of the first")


def _trickled(kci: Client, held: Held, waiting: Connection) -> Response:
    """Keeps the held upload alive byte by byte until the waiting request is answered."""
    limit = kci.run.options.timings["lock_wait"] + kci.patience.ceiling("early")
    until = History.now() + limit
    while not waiting.answered_within(kci.run.options.timings["idle"] / 20):
        expect.that(History.now() < until, f"an answer within {limit:g} s", "none")
        held.trickle()
    return waiting.receive()


@clause("UP-09c", "lock.timeout", slow=True, direct=True)
def test_timeout(kci: Client) -> None:
    """The first upload trickles on; the second waits its time and is told so."""
    key = kci.key("held.bin")
    with kci.holding(key) as held:
        probe = _second(kci, kci.folder, "held.bin", b"second")
        response = _trickled(kci, held, probe)
        expect.status(response, 409, context="the second upload")
        expect.that("Timeout waiting for upload" in response.text, "Timeout waiting for upload", response.text[:80])


@clause("DL-06b", "lock.reader-timeout", slow=True, direct=True)
def test_reader_timeout(kci: Client) -> None:
    """A download that waits longer than it may."""
    key = kci.key("held.bin")
    with kci.holding(key) as held:
        reader = kci.connection()
        reader.send(kci.head("GET", path_of(key)))
        response = _trickled(kci, held, reader)
        expect.status(response, 408, context="the download")
        expect.that("Timeout waiting for upload" in response.text, "Timeout waiting for upload", response.text[:80])


@clause("UP-09e", "lock.idle", slow=True, direct=True)
def test_idle(kci: Client) -> None:
    """The uploader is there and says nothing."""
    key = kci.key("idle.bin")
    held = kci.held(key, "idle")
    limit = kci.run.options.timings["idle"] + kci.patience.ceiling("early")
    expect.that(held.connection.answered_within(limit), f"an answer or the end within {limit:g} s", "none")
    try:
        expect.status(held.connection.receive("POST"), 408, context="the idle upload")
    except WireError as error:
        kci.transcript.note(f"dropped without an answer: {error}")
    _free(kci, key, "the next upload of the key")


# ---------------------------------------------------------------------------------------------------------- readers


@clause("DL-06a", "lock.reader-waits", direct=True)
def test_reader_waits(kci: Client) -> None:
    """A download asked in the middle of the upload: of a new key, and of one with an old object."""
    for name, old in (("new.bin", None), ("old.bin", payload("old", 9000))):
        key = kci.key(name)
        if old is not None:
            kci.stored(key, old)
        with kci.holding(key, name) as held:
            expect.that(held.reader is not None, "a download that waits", f"answered at once, {name}")
            assert held.reader is not None
            expect.status(held.open(), 200, context="the upload")
            response = expect.status(held.reader.receive(), 200, context=f"the download that waited, {name}")
            expect.body(response, held.content, "the download that waited")


@clause("DL-06c", "lock.readers-together", writes=False)
def test_readers_together(kci: Client) -> None:
    """One reader takes the head and stops reading; the others are served."""
    sample = kci.sample("large.bin", payload("large", 8 * HALF))
    slow = kci.connection(receive_buffer=16384)
    slow.send(kci.head("GET", sample.path))
    head, _ = slow.receive_head()
    for number in range(4):
        fast = kci.connection()
        fast.send(kci.head("GET", sample.path))
        early = fast.answered_within(kci.patience.ceiling("early"))
        expect.that(early, "an answer beside a slow reader", "none", f"reader {number + 1}")
        expect.body(fast.receive(), sample.data)
        fast.close()
    expect.equal(slow.receive_body(head, "GET")[0] == sample.data, True, "the slow reader has the whole")


@clause("DL-06d", "atomic.download-keeps-version")
def test_download_keeps_version(kci: Client) -> None:
    """The object is overwritten while most of it is still to be sent."""
    old, new = payload("old", 8 * HALF), payload("new", 8 * HALF)
    key = kci.stored(kci.key("large.bin"), old)
    reader = kci.connection(receive_buffer=16384)
    reader.send(kci.head("GET", path_of(key)))
    head, _ = reader.receive_head()
    expect.equal(head.status, 200, "the status of the download")
    upload = _second(kci, kci.folder, "large.bin", new)
    upload.answered_within(kci.patience.ceiling("early"))  # a server may also let the upload wait for the reader
    body, _ = reader.receive_body(head, "GET")
    expect.that(body == old, "the bytes it began with", expect.difference(old, body))
    expect.status(upload.receive("POST"), 200, context="the overwrite")
    kci.has(key, new, "the next download")


# -------------------------------------------------------------------------------------------------------- atomicity


def _aborted(kci: Client, key: str) -> None:
    """Uploads that break off in the middle, by close, by reset, and by an end of sending."""
    ways: list[Callable[[Connection], None]] = [Connection.close, Connection.reset, Connection.finish_sending]
    for leave in ways:
        held = kci.held(key, "aborted")
        leave(held.connection)
        held.connection.close()


@clause("UP-08a", "atomic.abort-keeps-old")
def test_abort_keeps_old(kci: Client) -> None:
    """The old object is there after every way to break off."""
    old = payload("old", 5000)
    key = kci.stored(kci.key("kept.bin"), old)
    etag = expect.header(kci.has(key, old), "ETag")
    _aborted(kci, key)
    response = kci.has(key, old, "after the aborted uploads")
    expect.equal(expect.header(response, "ETag"), etag, "the ETag after the aborted uploads")


@clause("UP-08b", "atomic.abort-leaves-nothing")
def test_abort_leaves_nothing(kci: Client) -> None:
    """No object, no part of one, no line in the list."""
    key = kci.key("never.bin")
    _aborted(kci, key)
    kci.has_not(key, "after the aborted uploads")
    expect.equal([line for line in kci.listed_if_any() if kci.folder in line], [], "lines of this check in the list")
    _free(kci, key, "a whole upload")


@clause("UP-08c", "atomic.refused-keeps-old")
def test_refused_keeps_old(kci: Client) -> None:
    """Refused for each of the reasons a client can give."""
    old = payload("old", 5000)
    key = kci.stored(kci.key("kept.bin"), old)
    name = file("kept.bin", b"new")
    whole = form(field("path", kci.folder), name)
    expect.status(kci.upload(key, b"new", token="not.a.token"), 401, context="a wrong token")
    for cut in (4, 20):  # inside the last boundary, and before it
        response = kci.request("POST", "/v1/file", [kci.authorised(), FORM_TYPE], whole[:-cut])
        expect.status(response, 400, context=f"a form cut short by {cut} bytes")
    late = form(name, field("path", f"{kci.folder}/../{kci.folder.rpartition('/')[2]}"))
    expect.status(kci.request("POST", "/v1/file", [kci.authorised(), FORM_TYPE], late), 400, context="a late bad path")
    kci.has(key, old, "after the refused uploads")
    expect.status(kci.upload(key, b"new"), 200, context="the good upload")
    kci.has(key, b"new")


def _value(response: Response, key: str) -> str:
    """Which write the bytes are of; a mix of two is a violation."""
    if response.status == 404:
        return NOTHING
    label = response.body.partition(b"\n")[0].decode("utf-8", "replace")
    value = label.partition("value ")[2].partition(" of ")[0]
    step = value.partition("-")[2]
    size = 3000 + int(step) if step.isdigit() else 0
    whole = bool(size) and response.body == payload(f"value {value} of {key}", size)
    expect.that(whole, "one whole object", f"{len(response.body)} bytes that begin with {label[:40]!r}")
    return value


def _operations(kci: Client, history: History, keys: list[str], number: int, share: int) -> None:
    """One client: a fixed mix of uploads and downloads over its own connections."""
    for step in range(share):
        key = keys[(step * 7 + number * 3) % len(keys)]
        begun = History.now()
        if (step + number) % 4 == 0:
            value = f"{number}-{step}"
            response = kci.upload(key, payload(f"value {value} of {key}", 3000 + step))
            if response.status == 200:
                history.add(number, key, True, value, begun)
            elif response.status >= 500:
                history.add(number, key, True, value, begun, FOREVER)
            else:
                expect.status(response, 200, 409, context="an upload among many")
        else:
            response = expect.status(kci.download(key), 200, 404, 408, context="a download among many")
            if response.status != 408:
                history.add(number, key, False, _value(response, key), begun)


@clause("UP-08d", "atomic.linearizable")
def test_linearizable(kci: Client) -> None:
    """8 clients, 200 operations each on 5 keys: every answer fits one order of whole objects."""
    history = History()
    keys = [kci.key(f"{number}.bin") for number in range(KEYS)]
    share = max(1, OPERATIONS * min(kci.run.options.examples, 60) // 60)

    def client(number: int) -> Callable[[], None]:
        return lambda: _operations(kci, history, keys, number, share)

    kci.together(*(client(number) for number in range(CLIENTS)))
    writes = sum(operation.write for operation in history.operations)
    expect.that(
        writes * 20 > len(history.operations), "some writes that succeed", f"{writes} of {len(history.operations)}"
    )
    found = linearize.anomalies(history)
    expect.that(not found, "a linearizable history", "; ".join(found)[:400], f"{len(history.operations)} operations")


@clause("UP-08e", "atomic.survives-restart", alone=True)
def test_survives_restart(kci: Client) -> None:
    """Answered 200, killed at once, started again by the lever."""
    kci.lever("restart")
    data = payload("durable", 300_000)
    keys = [kci.stored(kci.key(f"{number}.bin"), data) for number in range(5)]
    kci.restart()
    for key in keys:
        kci.has(key, data, "after the restart")
