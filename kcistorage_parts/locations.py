"""Where objects were found last: hints, which may be wrong, and spare a look at every storage (SO-10).

    Locations    in this process, the least recently learnt are forgotten first
    Shared       beside that in memcached, for all servers on the same storages

Any thread may call.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Callable, Optional

MOST = 200_000  # objects, some 30 MB
TIMEOUT_SECONDS = 0.2  # for memcached: looking at all storages takes no longer
RESTING_SECONDS = 10.0  # after a failure it is left alone for so long
DEFAULT_PORT = 11_211


class Locations:
    """The number of the pair that an object is on, in memory."""

    def __init__(self) -> None:
        self._pairs: dict[str, int] = {}
        self._lock = threading.Lock()

    def near(self, sha: str) -> Optional[int]:
        """What this process knows; never waits."""
        return self._pairs.get(sha)

    def get(self, sha: str) -> Optional[int]:
        return self.near(sha)

    def put(self, sha: str, number: int) -> None:
        if self._pairs.get(sha) == number:
            return
        with self._lock:
            self._pairs.pop(sha, None)
            self._pairs[sha] = number
            if len(self._pairs) > MOST:
                del self._pairs[next(iter(self._pairs))]

    def close(self) -> None:
        """Nothing is asked any more."""


def host_and_port(server: str) -> tuple[str, int]:
    """`host`, `host:port` or `[address]:port`; raises ValueError."""
    host, colon, port = server.rpartition(":")
    if not colon or server.endswith("]"):
        host, port = server, str(DEFAULT_PORT)
    if not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"{server}: not a host, nor a host and a port")
    return host.strip("[]"), int(port)


class Shared(Locations):
    """`names` are what the pairs are called in memcached: the same for every server, whatever their order is there."""

    def __init__(
        self, servers: Sequence[str], names: Sequence[str], failed: Callable[[str], None] = lambda text: None
    ) -> None:
        """Connects when it is asked. Raises ValueError for a server that is none, ImportError without pymemcache."""
        super().__init__()
        from pymemcache.client.hash import HashClient

        self._names, self._failed, self._resting_until = list(names), failed, 0.0
        self._client = HashClient(
            [host_and_port(server) for server in servers],
            connect_timeout=TIMEOUT_SECONDS,
            timeout=TIMEOUT_SECONDS,
            use_pooling=True,
            max_pool_size=16,
            retry_attempts=0,
            dead_timeout=RESTING_SECONDS,
        )

    def get(self, sha: str) -> Optional[int]:
        known = super().get(sha)
        if known is not None:
            return known
        name = self._ask(lambda: self._client.get(f"stor:{sha}"))
        with contextlib.suppress(ValueError, UnicodeDecodeError, AttributeError):
            return self._names.index(name.decode())  # type: ignore[attr-defined]
        return None

    def put(self, sha: str, number: int) -> None:
        if self.near(sha) != number:
            super().put(sha, number)
            self._ask(lambda: self._client.set(f"stor:{sha}", self._names[number].encode(), noreply=True))

    def _ask(self, call: Callable[[], object]) -> object:
        """None where memcached cannot be asked: then it was a hint less."""
        if time.monotonic() < self._resting_until:
            return None
        try:
            return call()
        except Exception as error:  # noqa: BLE001  # whatever a cache does wrong, the storages have the object
            self._resting_until = time.monotonic() + RESTING_SECONDS
            self._failed(f"{type(error).__name__}: {error}")
            return None

    def close(self) -> None:
        self._client.close()
