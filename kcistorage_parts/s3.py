"""S3 as a back end: one bucket of AWS, or of a server that speaks its protocol (UP-8, UP-12, DL-7, LS-1).

    check          List Objects                     put, claim   Put Object; the same on a condition
    stat, read     Head Object; Get Object          upload       Multipart Upload, a few parts at once
    keys           List Objects, page by page       delete       Head Object, Delete Object
    conditional    whether conditions are honoured; not all servers do

obstore is the library; it works without the GIL. Measured, on 2 cores beside the server: from 8 threads it does 2,400
GETs of 4 KiB a second, minio 1,000 and boto3 420; importing them takes 30, 270 and 360 ms. Objects are read by
`connections.py` all the same, with URLs that obstore signs: it reads nothing ahead. Measured: where the server shares
the processors, the first byte of 4 MiB comes 0.5 to 1 ms sooner.

Any thread may call anything. Errors, after as many tries as may help: ConnectionError, TimeoutError, PermissionError
(401, 403), else OSError: EBUSY (5xx, 429), ESTALE (there is another version), EIO (all else that is refused). Their
text is ours and for the log: the library's quotes the answers of S3, and those quote signatures.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import os
import queue
import random
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, TypeVar
from urllib.parse import quote, urlsplit

import obstore
from obstore.exceptions import BaseError, InvalidPathError
from obstore.store import S3Store

from kcistorage_parts.connections import (
    CONNECT_SECONDS,
    Arriving,
    BadReply,
    Connections,
    Properties,
    Reply,
    Request,
    any_reply,
    check_span,
    lost,
    properties,
)

if TYPE_CHECKING:
    from obstore import PutMode

T = TypeVar("T")
Tags = Sequence[tuple[str, str]]

PRIVATE = ".metadata/"  # no upload has a key under it: ours for probes
TRUE = ("1", "true", "on", "yes", "y")  # in a variable, for obstore
SIGNED = timedelta(hours=1)  # how long a URL is good for, should our clock be slow
BACK_OFF = 0.2  # seconds before the second try; doubles with each further one
IN_FLIGHT = 4  # blocks of one upload on their way; a fifth waits for them, and the caller fills a sixth
PAGE = 1_000  # keys; S3 lists no more at once
RUN = 50_000  # keys that are sorted in memory, some 5 MB
PLAIN_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]+")
UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")  # in tags (UP-12)


# ---- Failures
# obstore tells statuses and causes in its text alone, which ends in a dump with a field a line. No key and no answer
# can forge such a line: line breaks are escaped there.

STATUS = re.compile(r"^ +status: (\d{3}),$", re.MULTILINE)
CODE = re.compile(r'^ +"[^\n]*?<Code>(\w+)</Code>', re.MULTILINE)
TOLD_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")  # in the body of a refusal
TIMED_OUT = re.compile(r"^ +(?:\w+: )?(?:Timeout|TimedOut),$", re.MULTILINE)
CAUSE = re.compile(r'^ +(?:message|error): "?([^"{\n]+?)"?[,(]$', re.MULTILINE)


class Refusal(OSError):
    """S3 understood and says no (EIO): asking again would not help."""

    def __init__(self, text: str, status: int, code: str = "") -> None:
        super().__init__(errno.EIO, text)
        self.status, self.code = status, code


def refused(what: str, status: int, code: str) -> OSError:
    text = f"S3: {what}: {status} {code}"
    if status in (401, 403):
        return PermissionError(errno.EACCES, text)
    if status == 429 or (status >= 500 and status != 501):
        return OSError(errno.EBUSY, text)
    return Refusal(text, status, code)


def failure(what: str, error: Exception) -> OSError:
    """What to raise for an exception of obstore."""
    if isinstance(error, InvalidPathError):
        return Refusal(f"S3: {what}: {str(error).partition(chr(10))[0]}", 200)
    dump = str(error).rpartition("\nDebug source:\n")[2]
    status, code, cause = (line.search(dump) for line in (STATUS, CODE, CAUSE))
    if status is None and TIMED_OUT.search(dump):
        return TimeoutError(errno.ETIMEDOUT, f"S3: {what}: no answer in time")
    if status is None:
        return ConnectionError(f"S3: {what}: {cause[1] if cause else 'the answer is cut short or makes no sense'}")
    return refused(what, int(status[1]), code[1] if code else "")


def may_pass(error: OSError) -> bool:
    """Whether asking again may help."""
    return isinstance(error, (ConnectionError, TimeoutError)) or error.errno == errno.EBUSY


def stale(key: str) -> OSError:
    return OSError(errno.ESTALE, f"S3: {key!r} has changed")


def in_byte_order(keys: Iterator[str]) -> Iterator[str]:
    """Sorts in bounded memory: runs on disk, merged. Code points have the order of their UTF-8 bytes."""
    with contextlib.ExitStack() as files:
        runs = []
        while run := sorted(itertools.islice(keys, RUN)):
            file = files.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n"))
            file.writelines(f"{key}\n" for key in run)
            file.seek(0)
            runs.append(line[:-1] for line in file)
        yield from heapq.merge(*runs)


# ---- Uploads


class Abandoned(Exception):
    """The caller left without a commit."""


class Upload:
    """An object on its way in, sent block by block inside a `with` block, by one thread.

    obstore pulls the blocks through a thread of ours, sends IN_FLIGHT at once and repeats those that fail. When its
    source raises, it aborts the multipart upload; leaving without a commit waits for that, for `seconds` at most.
    """

    def __init__(self, send: Callable[[Iterator[bytes]], str], content_type: str, seconds: float) -> None:
        self._content_type, self._seconds = content_type, seconds
        self._size, self._whole, self._etag = 0, False, ""
        self._blocks: queue.SimpleQueue[Optional[bytes]] = queue.SimpleQueue()
        self._room = threading.Semaphore(1)
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, args=(send,), name="upload", daemon=True)
        self._thread.start()

    def _run(self, send: Callable[[Iterator[bytes]], str]) -> None:
        try:
            self._etag = send(self._feed())
        except BaseException as error:  # noqa: BLE001, raised in the caller's thread
            self._error = error
        self._room.release()

    def _feed(self) -> Iterator[bytes]:
        while (block := self._blocks.get()) is not None:
            yield block
            block = b""  # obstore has it
            self._room.release()
        if not self._whole:
            raise Abandoned

    def write(self, block: bytes) -> None:
        """Sends a block, of BLOCK_BYTES unless it is the last. Waits for room; raises what has failed meanwhile."""
        self._room.acquire()
        if self._error is not None:
            self._room.release()
            raise self._error
        self._size += len(block)
        self._blocks.put(block)

    def commit(self) -> Properties:
        """Makes the object appear, at once and whole. `modified` is by the clock of this host."""
        self._whole = True
        self._blocks.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return Properties(self._size, self._etag, int(time.time()), self._content_type)

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *exception: object) -> None:
        self._blocks.put(None)
        self._thread.join(self._seconds)


# ---- The back end


def service(endpoint: str, region: str, secure: bool) -> str:
    """The URL of the service; ValueError where `endpoint` names none."""
    if not endpoint:
        return f"https://s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
    url = endpoint if "://" in endpoint else f"{'https' if secure else 'http'}://{endpoint}"
    if not re.fullmatch(r"https?://([\w.-]+|\[[\da-fA-F:.]+\])(:\d{1,5})?(/[\w./~-]*)?", url, re.ASCII):
        raise ValueError("endpoint: host:port, or an http or https URL")
    if urlsplit(url).port == 0:  # of 65,536 and more, urlsplit says so itself
        raise ValueError("endpoint: a port above 0")
    return url.rstrip("/")


def described(content_type: str, tags: Tags, **how: Any) -> dict[str, Any]:
    """The arguments of obstore.put that go along with the content; S3 limits the lengths of tags."""
    safe = {UNSAFE.sub("_", name)[:128]: UNSAFE.sub("_", value)[:256] for name, value in tags}
    return {"attributes": {"Content-Type": content_type} if content_type else {}, "tags": safe, **how}


class S3Backend:
    """One bucket. A request has `attempts` tries, and each of them `timeout_seconds` from beginning to end; where
    something is read, that is the longest silence.

    `endpoint` "" is AWS. Without `access_key` the keys are the host's: AWS_* variables, a role. `warn` takes a text.
    ValueError for what can never work; nothing is asked of S3 yet.
    """

    BLOCK_BYTES = 5 << 20  # the least that S3 takes: a slow line needs time for a block. Measured: larger is not faster

    def __init__(
        self,
        *,
        bucket: str,
        endpoint: str = "",
        access_key: str = "",
        secret_key: str = "",
        region: str = "",
        secure: bool = True,
        timeout_seconds: float = 20.0,
        attempts: int = 4,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{1,254}", bucket, re.ASCII):
            raise ValueError("bucket: the name of a bucket")
        if not re.fullmatch(r"[A-Za-z0-9-]*", region):
            raise ValueError("region: the name of a region")
        if not re.fullmatch(r"[!-~]*", access_key) or bool(access_key) != bool(secret_key):
            raise ValueError("access_key, secret_key: both, or none of the two")
        if timeout_seconds <= 0 or attempts < 1:
            raise ValueError("timeout_seconds, attempts: positive numbers")
        self._bucket, self._timeout, self._attempts, self._warn = bucket, timeout_seconds, attempts, warn
        self._sorts: Optional[bool] = None
        self._service = url = service(endpoint, region or "us-east-1", secure)
        self._connections = Connections(urlsplit(url), timeout_seconds)
        self._anonymous = not access_key and os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in TRUE
        options: dict[str, Any] = {
            "endpoint": url,
            "region": region or "us-east-1",
            "virtual_hosted_style_request": False,
            "unsigned_payload": url.startswith("https:"),  # TLS vouches for content. Measured: 3 ms to hash 5 MiB
            "client_options": {
                "allow_http": url.startswith("http:"),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "timeout": timedelta(seconds=timeout_seconds),
            },
        }
        if tuple(map(int, obstore.__version__.split(".")[:2])) >= (0, 11):  # 0.8 has no other way; nor do some servers
            options["disable_bulk_delete"] = True
        if access_key:  # by a provider: a session token in the environment belongs to another key
            keys = {"access_key_id": access_key, "secret_access_key": secret_key, "token": None, "expires_at": None}
            options.update(skip_signature=False, credential_provider=lambda: keys)
        self._store = S3Store(bucket, retry_config={"max_retries": 0}, **options)
        self._stubborn = S3Store(bucket, retry_config={"max_retries": attempts - 1}, **options)  # tries again by itself

    def _request(self, what: str, call: Callable[[], T]) -> T:
        """Tries again what may work then. (Measured: obstore 0.8 gives up after a reset.)"""
        for attempt in itertools.count(1):
            try:
                return call()
            except (BaseError, FileNotFoundError) as error:
                reason = failure(what, error)
            except OSError as error:
                reason = error
            if attempt == self._attempts or not may_pass(reason):
                break
            time.sleep(BACK_OFF * 2 ** (attempt - 1) * random.uniform(1, 1.5))
        raise reason

    def _get(self, key: str, start: int, stop: int, etag: str) -> tuple[Properties, bytes, Arriving]:
        """One request. The beginning, and the rest as it arrives."""
        reply = self._ask(key, start, stop, etag)
        told = reply.headers.get("content-range" if start < stop else "content-length", "")
        try:
            found = properties(reply.headers, told.rpartition("/")[2])
            if etag and found.etag != etag:  # who knows no conditions sends any version
                raise stale(key)
        except OSError:
            reply.rest.close()
            raise
        return found, reply.body, Arriving(f"S3: reading {key!r}", reply.rest)

    def _ask(self, key: str, start: int, stop: int, etag: str) -> Reply:
        """GET of a range, HEAD for an empty one."""
        ranged = start < stop
        url = self._url("GET" if ranged else "HEAD", key)
        host, _, target = url.partition("://")[2].partition("/")  # the host as it is signed: without a usual port
        headers = {"Host": host}
        if ranged:
            headers["Range"] = f"bytes={start}-{stop - 1}"
        if etag:
            headers["If-Match"] = etag
        check = partial(check_span, start, stop) if ranged else any_reply
        try:
            reply = self._connections.ask(Request("GET" if ranged else "HEAD", f"/{target}", headers, b"", check))
        except (OSError, BadReply) as error:
            raise lost(f"S3: reading {key!r}", error) from None
        if reply.status >= 300:
            code = TOLD_CODE.search(reply.body)
            raise refused(f"reading {key!r}", reply.status, code[1].decode() if code else "")
        return reply

    def _url(self, method: Literal["GET", "HEAD"], key: str) -> str:
        if self._anonymous:
            return f"{self._service}/{self._bucket}/{quote(key, safe='/~')}"
        return obstore.sign(self._store, method, key, SIGNED)

    def read(self, key: str, start: int, stop: int, etag: str = "") -> Optional[tuple[Properties, bytes, Arriving]]:
        """The bytes [start, stop), fewer where the object ends before: some, and the rest as it arrives.

        None where there is no such object; with `etag` only of that version. One request; two where there is nothing at
        `start`. The rest raises ConnectionError and TimeoutError: it is not tried again.
        """
        try:
            return self._request(f"reading {key!r}", lambda: self._get(key, start, stop, etag))
        except Refusal as refusal:
            if refusal.status == 404 and refusal.code != "NoSuchBucket":
                return None
            if refusal.status == 412:
                raise stale(key) from None
            if refusal.status != 416 or start >= stop:
                raise
        found = self.read(key, start, start, etag)
        if found is not None and found[0].size > start:  # not the object that ended before `start`
            raise stale(key)
        return found

    def stat(self, key: str) -> Optional[Properties]:
        """None where there is no such object."""
        found = self.read(key, 0, 0)
        return None if found is None else found[0]

    def put(self, key: str, data: bytes, content_type: str, tags: Tags) -> Properties:
        """Stores an object in one request, which is atomic. `modified` is by the clock of this host."""
        about = described(content_type, tags, use_multipart=False)
        stored = self._request(f"storing {key!r}", lambda: obstore.put(self._store, key, data, **about))
        return Properties(len(data), stored["e_tag"] or "", int(time.time()), content_type)

    def upload(self, key: str, content_type: str, tags: Tags) -> Upload:
        """An object that is larger than a block. Memory: IN_FLIGHT + 1 blocks."""
        parts = {"use_multipart": True, "chunk_size": self.BLOCK_BYTES, "max_concurrency": IN_FLIGHT}
        about = described(content_type, tags, **parts)

        def send(blocks: Iterator[bytes]) -> str:
            try:
                return obstore.put(self._stubborn, key, blocks, **about)["e_tag"] or ""
            except (BaseError, FileNotFoundError) as error:
                self._warn(f"S3: parts of an upload of {key!r} that failed may be left")
                raise failure(f"storing {key!r}", error) from None

        return Upload(send, content_type, self._timeout)

    def _listed(self, folder: str) -> Iterator[str]:
        try:
            for page in obstore.list(self._stubborn, folder or None, chunk_size=PAGE):
                yield from (entry["path"] for entry in page)
        except BaseError as error:
            raise failure("listing", error) from None

    @contextlib.contextmanager
    def _scratch(self, *names: str) -> Iterator[list[str]]:
        """Keys that nobody else has, inside a `with` block."""
        folder = f"{PRIVATE}probe-{secrets.token_hex(8)}"
        keys = [f"{folder}/{name}" for name in names]
        try:
            yield keys
        finally:
            for key in keys:
                with contextlib.suppress(OSError):  # what went wrong first is what counts
                    self.delete(key)

    def sorts(self) -> bool:
        """Whether S3 lists in the order of bytes, as it should; SeaweedFS sorts folders without their "/"."""
        if self._sorts is None:
            with contextlib.suppress(Refusal, PermissionError), self._scratch("a b", "a/b") as keys:
                for key in keys:
                    self.put(key, b"", "", ())
                self._sorts = list(self._listed(keys[0].rpartition("/")[0])) == keys
                if not self._sorts:
                    self._warn("S3 does not list in the order of bytes: listings begin when they are complete")
        return self._sorts is not False

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys with this prefix, sorted by bytes; ours are among them. Memory: a page, or RUN keys to sort."""
        # obstore lists folders, not prefixes, and 0.8 the wrong one where a name has an odd character.
        folder = "/".join(itertools.takewhile(PLAIN_NAME.fullmatch, prefix.split("/")[:-1]))
        found = self._listed(folder)
        if not self.sorts():
            found = in_byte_order(key for key in found if key.startswith(prefix))
        for key in found:
            if key.startswith(prefix):
                yield key
            elif key > prefix:
                return

    def delete(self, key: str, etag: str = "") -> bool:
        """False where there was no such object or version. S3 has no condition here: two requests, with a gap."""
        found = self.stat(key)
        if found is None or (etag and found.etag != etag):
            return False
        self._request(f"deleting {key!r}", lambda: obstore.delete(self._store, key))
        return True

    def claim(self, key: str, etag: str, data: bytes) -> str:
        """Stores `data` if nothing is there or, with `etag`, over that version alone; its ETag, or "" if not.

        `data` has to be new and the claimer's alone: its ETag is a hash of it. Only where `conditional` is true.
        """
        mode: PutMode = {"e_tag": etag} if etag else "create"
        tries = []

        def put() -> str:
            tries.append(key)
            return obstore.put(self._store, key, data, mode=mode)["e_tag"] or ""

        try:
            return self._request(f"claiming {key!r}", put)
        except Refusal as refusal:
            if refusal.status not in (404, 409, 412) or refusal.code == "NoSuchBucket":
                raise
        found = self.read(key, 0, len(data) + 1) if len(tries) > 1 else None
        return found[0].etag if found is not None and found[1] == data else ""  # the answer to "yes" may get lost

    def check(self) -> None:
        """Asks for the bucket. FileNotFoundError: there is none."""
        try:
            self._request("listing", lambda: next(iter(obstore.list(self._store, PRIVATE[:-1], chunk_size=1)), None))
        except Refusal as refusal:
            if refusal.status != 404:
                raise
            raise FileNotFoundError(errno.ENOENT, f"S3: there is no bucket {self._bucket!r}") from None

    def close(self) -> None:
        """Lets go of our own connections; obstore closes those that have not been used for a while."""
        self._connections.close()
