"""Objects of S3 by the SHA-256 of their bytes, each at `aa/bb/cc/<sha>` (SO-5, SO-9).

S3 is asked first and trusted least: what fits into the first request is hashed; what it does not answer, or stops
sending half way, comes from elsewhere, for under this name there can be no other bytes. Any thread may call.

Stands on `fills.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Generator, Iterator
from functools import partial
from typing import Callable, NamedTuple, Optional, Protocol, Union

from kcistorage_parts.fills import FIRST_BYTES, SEND_BYTES, Cold, Properties, Rest

RESTING_SECONDS = 10.0  # after a failure S3 is left alone for so long


class Backend(Protocol):
    """What is asked of S3; s3.py says more."""

    def stat(self, key: str) -> Optional[Properties]: ...
    def read(
        self, key: str, start: int, stop: int, etag: str = ""
    ) -> Optional[tuple[Properties, bytes, Rest]]: ...  # the beginning, and the rest as it arrives
    def close(self) -> None: ...


class Version(NamedTuple):
    """What is known of an object without its bytes; the ETag is the sha, wherever they are."""

    size: int  # bytes
    etag: str
    modified: int  # seconds since the epoch
    content_type: str
    state: str = "uncached"
    descriptor: int = -1
    content: Optional[bytes] = None

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        return iter(())

    def close(self) -> None:
        """There is nothing to let go of."""


class Bucket:
    """One bucket.

    `otherwise` reads bytes [start, stop) of an object from elsewhere, or raises OSError; `tell` takes an event and what
    belongs to it.
    """

    def __init__(
        self,
        backend: Backend,
        content_type: str,
        otherwise: Callable[[str, int, int], bytes],
        tell: Callable[..., None] = lambda event, **about: None,
    ) -> None:
        self._backend, self._content_type = backend, content_type
        self._otherwise, self._tell = otherwise, tell
        self._resting_until = 0.0
        self.close = backend.close

    @staticmethod
    def key(sha: str) -> str:
        return f"{sha[:2]}/{sha[2:4]}/{sha[4:6]}/{sha}"

    def open(self, sha: str, bodiless: bool) -> Union[Version, Cold, None]:
        """None where it is not, or S3 cannot be asked."""
        try:
            if self._is_awake():
                return self._head(sha) if bodiless else self._begin(sha)
        except OSError as error:
            self._rest(error)
        return None

    def _is_awake(self) -> bool:
        return time.monotonic() >= self._resting_until

    def _rest(self, error: OSError) -> None:
        self._resting_until = time.monotonic() + RESTING_SECONDS
        self._tell("s3-failed", error=str(error))

    def _head(self, sha: str) -> Optional[Version]:
        there = self._backend.stat(self.key(sha))
        return None if there is None else self._version(sha, there)

    def _version(self, sha: str, there: Properties) -> Version:
        return Version(there.size, f'"{sha}"', there.modified, self._content_type)

    def _begin(self, sha: str) -> Optional[Cold]:
        found = self._backend.read(self.key(sha), 0, FIRST_BYTES)
        if found is None:
            return None
        there, first = found[0], found[1] + b"".join(found[2])
        if len(first) == there.size and hashlib.sha256(first).hexdigest() != sha:
            self._tell("s3-damaged", key=self.key(sha))
            return None
        return Cold(self._version(sha, there), first, partial(self._fetch, sha, there.etag), None)

    def _fetch(self, sha: str, etag: str, start: int, stop: int) -> Generator[bytes, None, None]:
        """What S3 does not send, however far it came, comes from elsewhere."""
        try:
            found = self._backend.read(self.key(sha), start, stop, etag) if self._is_awake() else None
            if found is not None:
                with contextlib.closing(found[2]):
                    for piece in itertools.chain([found[1]], found[2]):
                        start += len(piece)
                        yield piece
        except OSError as error:
            self._rest(error)
        for at in range(start, stop, SEND_BYTES):
            yield self._otherwise(sha, at, min(stop, at + SEND_BYTES))
