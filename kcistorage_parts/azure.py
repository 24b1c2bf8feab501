"""Azure Blob Storage as a back end: the block blobs of one container (UP-8, UP-12, DL-7, LS-1).

    check, stat   Get Blob Properties
    read          Get Blob, one range
    put, claim    Put Blob; the same on a condition
    upload        Put Block, four at a time; Put Block List
    keys          List Blobs, page by page
    delete        Delete Blob

azure-storage-blob turns the account's key into a shared access signature (SAS); the requests are plain HTTP, by
`connections.py`. Measured: a GET of 4 KiB takes 0.3 to 0.5 ms of our CPU; by the library's own client 2 to 3 ms,
longer than the emulator needs for the answer.

Any thread may call anything. Errors, after as many attempts as may help: ConnectionError and TimeoutError where the
service is out of reach, else OSError: EBUSY (5xx, 429), EACCES (401, 403), ESTALE (there is another version), EIO (all
else that is refused). Their text is for the log. It never has a URL in it, for that holds the signature.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import heapq
import random
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime, timezone
from functools import lru_cache, partial
from typing import Callable, Optional
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit
from xml.etree import ElementTree

from kcistorage_parts.connections import (
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

API_VERSION = "2021-12-02"  # index tags came in 2019-12-12, lists of names that XML cannot hold in 2021-02-12
BLOCKS_IN_FLIGHT = 4  # an upload's memory: these, and one that the caller fills
LIST_PAGE = 1_000  # names: 1 MB of XML, which takes 5 MB when parsed. The service would give 5,000
FIRST_PAUSE_SECONDS = 0.2  # before the second attempt; then twice as long each time
SIGNED_SECONDS = 3_600  # how long one signature is used; it is good for as long again, should our clock be slow

ERRNO = {401: errno.EACCES, 403: errno.EACCES, 412: errno.ESTALE, 429: errno.EBUSY}
NO_TAGS = (400, 403, 409)  # the SAS does not permit them, or the account (hierarchical namespace) does not have them
ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(?:-[a-z0-9]+)*")
NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.-]")
SERVICE = "the blob service"

Tags = Sequence[tuple[str, str]]


# ---- Names
# The service makes a slash of each backslash and drops the dots that end a segment, so that one object would take the
# place of another; and XML, in which lists come, has no U+FFFE and U+FFFF. In a blob's name each of these is
# percent-encoded, and so is the percent sign of what only looks like it. All other names stay as they are.

TO_ENCODE = re.compile(r"%(?=25|2E|5C|EF%BF%B[EF])|\\|\.(?=/|$)|[\ufffe\uffff]")
ENCODED = re.compile(r"%(?:25|2E|5C|EF%BF%B[EF])")
MAY_BE_ENCODED = re.compile(r"%|\\|\.(?=/|$)|[\ufffe\uffff]")
BEYOND_16_BITS = re.compile(r"[\U00010000-\U0010ffff]")


def blob_name(key: str) -> str:
    return TO_ENCODE.sub(lambda found: "".join(f"%{octet:02X}" for octet in found[0].encode()), key)


def key_of(name: str) -> str:
    return ENCODED.sub(lambda found: unquote(found[0]), name) if "%" in name else name


def in_byte_order(names: Iterator[str]) -> Iterator[str]:
    """The keys of sorted blob names, in the byte order of UTF-8, which is that of code points (LS-1).

    A name with an encoded character comes too early, and so does, where the service compares UTF-16, one with a
    character beyond U+FFFF. These wait until the others, which are in order, have come that far.
    """
    early: list[str] = []
    for name in names:
        key = key_of(name)
        if key != name or BEYOND_16_BITS.search(key):
            heapq.heappush(early, key)
            continue
        while early and early[0] < key:
            yield heapq.heappop(early)
        yield key
    yield from sorted(early)


def tag_header(tags: Tags) -> dict[str, str]:
    """Blob index tags (UP-12), no longer than the service takes them."""
    pairs = [(NOT_PLAIN.sub("_", name)[:128], NOT_PLAIN.sub("_", value)[:256]) for name, value in tags]
    return {"x-ms-tags": urlencode(pairs)} if pairs else {}


# ---- Replies


def code(reply: Reply) -> str:
    """What exactly went wrong, in the service's own words; "" where nothing did."""
    return NOT_PLAIN.sub("", reply.headers.get("x-ms-error-code", ""))


def refusal(reply: Reply) -> OSError:
    number = ERRNO.get(reply.status, errno.EBUSY if reply.status >= 500 else errno.EIO)
    return OSError(number, f"{SERVICE} said {reply.status} {code(reply)}")


def expected(status: int, reply: Reply) -> Reply:
    if reply.status != status:
        raise refusal(reply)
    return reply


def is_missing(reply: Reply) -> bool:
    """Whether there is no such blob. That there is no container is a fault, and not an answer."""
    return reply.status == 404 and code(reply) != "ContainerNotFound"


def listed(page: bytes) -> tuple[list[str], str]:
    """The names on a page of a list, and where the next page begins: "" after the last."""
    try:
        root = ElementTree.fromstring(page)
    except ElementTree.ParseError:
        raise ConnectionError(f"{SERVICE} sent a list that is not XML") from None
    names = [(element.text or "", element.get("Encoded") == "true") for element in root.iter("Name")]
    return [unquote(name) if encoded else name for name, encoded in names], root.findtext("NextMarker") or ""


# ---- Objects


@lru_cache(maxsize=8)
def signature(account: str, container: str, key: str, hour: int) -> str:
    """The query that permits requests on a container, in this hour of the epoch."""
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas  # Measured: 0.4 s, 35 MiB

    expiry = datetime.fromtimestamp((hour + 2) * SIGNED_SECONDS, timezone.utc)
    rights = ContainerSasPermissions(read=True, write=True, delete=True, list=True, tag=True)
    return generate_container_sas(account, container, key, permission=rights, expiry=expiry)


def checked_url(endpoint: str) -> SplitResult:
    with contextlib.suppress(ValueError):  # what is wrong with a host or a port
        url = urlsplit(endpoint)
        if url.scheme in ("http", "https") and url.hostname and url.port != 0 and not (url.query or url.username):
            return url
    raise ValueError("endpoint: a URL of the form https://host[:port][/path]")


def checked_key(key: str) -> str:
    try:
        base64.b64decode(key, validate=True)
    except ValueError:
        raise ValueError("key: it is not base64") from None
    return key


class Upload:
    """An object that one thread sends block by block. Leaving without a commit leaves nothing that anybody sees.

    (The service forgets in a week the blocks that nobody commits.) The commit of another upload of this key throws our
    blocks away; and as no two uploads have ids in common, ours then fails, and nothing is mixed.
    """

    def __init__(self, stage: Callable[..., Reply], publish: Callable[[bytes, int], Properties]) -> None:
        self._stage, self._publish = stage, publish
        self._prefix = secrets.token_hex(9)  # 24 bytes with the number: base64 without "=", and of digits without "+"
        self._ids: list[str] = []
        self._size = 0
        self._sending: set[Future[Reply]] = set()
        self._pool = ThreadPoolExecutor(BLOCKS_IN_FLIGHT, "azure-block")
        self._given_up = threading.Event()

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *exception: object) -> None:
        self._given_up.set()
        self._pool.shutdown(wait=False)

    def write(self, block: bytes) -> None:
        """Takes a block, which is not empty, and returns while it is sent; raises what befell an earlier one."""
        if len(self._sending) == BLOCKS_IN_FLIGHT:
            wait(self._sending, return_when=FIRST_COMPLETED)
        for sent in [sent for sent in self._sending if sent.done()]:
            self._sending.remove(sent)
            sent.result()
        self._ids.append(base64.b64encode(f"{self._prefix}{len(self._ids):06}".encode()).decode())
        self._sending.add(self._pool.submit(self._stage, self._ids[-1], block, self._given_up))
        self._size += len(block)

    def commit(self) -> Properties:
        """Makes the blocks the object, at once and whole."""
        for sent in self._sending:
            sent.result()
        # Latest, not Uncommitted: should the answer be lost, the next attempt finds them committed.
        blocks = "".join(f"<Latest>{block_id}</Latest>" for block_id in self._ids)
        return self._publish(f"<BlockList>{blocks}</BlockList>".encode(), self._size)


class AzureBackend:
    """One container. `endpoint` is the URL of the blob service, "" the public cloud's; a SAS may stand in for the key.

    ValueError says which value can never work. `timeout_seconds` is the longest silence that is borne, `attempts` is
    for each request. `warn` is told, once, that objects have to go without tags.
    """

    BLOCK_BYTES = 4 << 20  # Measured: 8 MiB is no faster. A blob has at most 50,000 blocks: 195 GiB

    def __init__(
        self,
        *,
        account: str,
        key: str = "",
        container: str,
        sastoken: str = "",
        endpoint: str = "",
        timeout_seconds: float = 20.0,
        attempts: int = 4,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        if not ACCOUNT.fullmatch(account):
            raise ValueError("account: a name of 3 to 24 small letters and digits")
        if not CONTAINER.fullmatch(container):
            raise ValueError("container: a name of 3 to 63 small letters, digits and single hyphens")
        if bool(key) == bool(sastoken):
            raise ValueError("key, sastoken: one of the two, and not both")
        url = checked_url(endpoint or f"https://{account}.blob.core.windows.net")
        self._sign: Callable[[int], str] = lambda hour: sastoken.strip().lstrip("?&")
        if key:
            self._sign = partial(signature, account, container, checked_key(key))
            self._sign(0)  # imports the library now, and not during the first request
        self._connections, self._attempts = Connections(url, timeout_seconds), attempts
        self._closed = threading.Event()
        self._path = f"{url.path.rstrip('/')}/{container}"
        self._warn, self._tagging, self._lock = warn, True, threading.Lock()

    def _ask(
        self,
        method: str,
        key: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        span: Optional[tuple[int, int]] = None,
        given_up: Optional[threading.Event] = None,
    ) -> Reply:
        """A request about a blob, or with an empty key about the container."""
        path = quote(f"{self._path}/{blob_name(key)}".rstrip("/"), safe="/")
        signed = self._sign(int(time.time()) // SIGNED_SECONDS)
        target = f"{path}?{query}{'&' if query else ''}{signed}"
        check = partial(check_span, *span) if span else any_reply
        request = Request(method, target, {"x-ms-version": API_VERSION, **headers}, body, check)
        return self._answer(request, given_up or self._closed)

    def _answer(self, request: Request, given_up: threading.Event) -> Reply:
        """A reply below 500 that is not 429; else raises as the module says. `given_up` makes this attempt the last."""
        failure: OSError = ConnectionError()
        for attempt in range(self._attempts):
            if attempt and given_up.wait(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(1, 1.5)):
                break
            try:
                reply = self._connections.ask(request)
            except (OSError, BadReply) as error:
                failure = lost(SERVICE, error)
            else:
                if reply.status < 500 and reply.status != 429:
                    return reply._replace(repeated=reply.repeated or attempt > 0)
                failure = refusal(reply)
        raise failure

    def check(self) -> None:
        """One request, to see whether any gets through; FileNotFoundError where there is no container."""
        reply = self._ask("HEAD", ".metadata", "", {})  # a key that no object has (UP-4)
        if code(reply) == "ContainerNotFound":
            raise FileNotFoundError(errno.ENOENT, "there is no such container")
        if not is_missing(reply):
            expected(200, reply)

    def stat(self, key: str) -> Optional[Properties]:
        """None where there is no such object."""
        reply = self._ask("HEAD", key, "", {})
        if is_missing(reply):
            return None
        return properties(expected(200, reply).headers, reply.headers.get("content-length", ""))

    def read(self, key: str, start: int, stop: int, etag: str = "") -> Optional[tuple[Properties, bytes, Arriving]]:
        """The bytes [start, stop), or as many of them as there are: the first 64 KiB, and the rest as it arrives.

        None where there is no such object. With an `etag` of this version alone: ESTALE where it is gone. The rest
        raises ConnectionError and TimeoutError: it is not tried again.
        """
        span = start, max(stop, start + 1)  # there is no range of no bytes
        headers = {"Range": f"bytes={span[0]}-{span[1] - 1}", **({"If-Match": etag} if etag else {})}
        reply = self._ask("GET", key, "", headers, span=span)
        if reply.status == 206:
            size = reply.headers["content-range"].rpartition("/")[2]
            return properties(reply.headers, size), reply.body[: max(stop - start, 0)], Arriving(SERVICE, reply.rest)
        if reply.status == 416:  # it ends before `start`, or is empty
            whole = self.stat(key)
            if whole and whole.size <= start and etag in ("", whole.etag):
                return whole, b"", Arriving(SERVICE, reply.rest)
            if whole and not etag:  # it has grown meanwhile
                return self.read(key, start, stop, whole.etag)
        elif not is_missing(reply):
            raise refusal(reply)
        if etag:
            raise OSError(errno.ESTALE, "that version is gone")
        return None

    def put(self, key: str, data: bytes, content_type: str, tags: Tags) -> Properties:
        """Stores an object by a single request."""
        headers = {"x-ms-blob-type": "BlockBlob", "x-ms-blob-content-type": content_type}
        return properties(self._store(key, "", headers, data, tags).headers, len(data), content_type)

    def upload(self, key: str, content_type: str, tags: Tags) -> Upload:
        """Stores an object in blocks of up to BLOCK_BYTES: write() them, and commit()."""

        def stage(block_id: str, block: bytes, given_up: threading.Event) -> Reply:
            return expected(201, self._ask("PUT", key, f"comp=block&blockid={block_id}", {}, block, given_up=given_up))

        def publish(block_list: bytes, size: int) -> Properties:
            headers = {"x-ms-blob-content-type": content_type}
            stored = self._store(key, "comp=blocklist", headers, block_list, tags)
            return properties(stored.headers, size, content_type)

        return Upload(stage, publish)

    def _store(self, key: str, query: str, headers: Mapping[str, str], body: bytes, tags: Tags) -> Reply:
        """Makes a version of an object, without tags where only they stand in the way."""
        tagged = tag_header(tags) if self._tagging else {}
        reply = self._ask("PUT", key, query, {**headers, **tagged}, body)
        if tagged and reply.status in NO_TAGS:
            refused = refusal(reply)
            reply = self._ask("PUT", key, query, headers, body)
            if reply.status == 201:
                with self._lock:
                    first, self._tagging = self._tagging, False
                if first:
                    self._warn(f"objects are stored without tags: {refused}")
        return expected(201, reply)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys with this prefix, in byte order; one page of them at a time is in memory (LS-1)."""
        keys = in_byte_order(self._names(MAY_BE_ENCODED.split(prefix, maxsplit=1)[0]))
        return (key for key in keys if key.startswith(prefix))

    def _names(self, prefix: str) -> Iterator[str]:
        query = {"restype": "container", "comp": "list", "maxresults": str(LIST_PAGE), "prefix": prefix}
        marker = ""
        while True:
            reply = self._ask("GET", "", urlencode({**query, "marker": marker}, quote_via=quote), {})
            names, marker = listed(expected(200, reply).body)
            yield from names
            if not marker:
                return

    def delete(self, key: str, etag: str = "") -> bool:
        """False where there was no such object, or, with an `etag`, another version of it."""
        reply = self._ask("DELETE", key, "", {"If-Match": etag} if etag else {})
        if is_missing(reply):
            return reply.repeated
        return reply.status != 412 and bool(expected(202, reply))

    def claim(self, key: str, etag: str, data: bytes) -> str:
        """Puts an object where there is none, or with an `etag` over that version: its ETag, "" where that is not so.

        No two claims may have the same data: where an answer is lost, that is how we know the winner. Nor may the key
        be one of an upload: blocks that nobody committed are something, to this condition.
        """
        condition = {"If-Match": etag} if etag else {"If-None-Match": "*"}
        reply = self._ask("PUT", key, "", {"x-ms-blob-type": "BlockBlob", **condition}, data)
        if reply.status != 412 and code(reply) not in ("BlobAlreadyExists", "BlobNotFound"):
            return properties(expected(201, reply).headers, len(data), "").etag
        winner = self.read(key, 0, len(data) + 1) if reply.repeated else None
        return winner[0].etag if winner and winner[1] == data else ""

    def close(self) -> None:
        """Lets go of the connections; requests that are under way are not tried again."""
        self._closed.set()
        self._connections.close()
