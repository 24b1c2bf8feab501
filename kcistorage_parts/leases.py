"""The lock between servers of one storage (UP-9): who makes the object `.metadata/locks/<sha512 of a key>` has the key.

A holder writes its lock anew every RENEW_SECONDS. One that has not changed for EXPIRY_SECONDS, by the clock of whoever
watches it, is a dead server's and is taken over; so no two clocks are ever compared. All it takes is that a write on a
condition (If-None-Match: *, If-Match) is refused when the condition fails.

Azure has leases of its own, but only of a blob that exists: a request to create it, one to acquire, one to delete. This
takes two, and serves S3, which has none.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Callable, Optional, Protocol

LOCKS = ".metadata/locks/"  # where no upload has a key

RENEW_SECONDS = 5.0
EXPIRY_SECONDS = 20.0  # below the 30 s that an upload waits for its key
CLOSE_SECONDS = 5.0  # that the end of the server waits for locks to be released; what is left expires
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5  # seconds between two looks at a lock that another server holds


class Version(Protocol):
    """Of a lock as it is stored."""

    @property
    def etag(self) -> str: ...


class Backend(Protocol):
    """What locks are made of; azure.py and s3.py say more. Any thread may call anything."""

    def stat(self, key: str) -> Optional[Version]: ...
    def keys(self, prefix: str) -> Iterator[str]: ...
    def delete(self, key: str, etag: str = "") -> bool: ...
    def claim(self, key: str, etag: str, data: bytes) -> str: ...


def lock_of(key: str) -> str:
    return f"{LOCKS}{hashlib.sha512(key.encode()).hexdigest()}"


def claim_text() -> bytes:
    """No two are alike: by it a back end knows its own claim again when the answer was lost."""
    return secrets.token_hex(16).encode()


class Lease:
    """A lock that is held. `_etag` is its version, by which we know it for ours."""

    def __init__(self, backend: Backend, name: str, etag: str, began: float) -> None:
        self._backend, self._name, self._etag = backend, name, etag
        self._renewed = began  # when the last claim that succeeded was begun
        self._lost = False
        self._busy = threading.Lock()

    @property
    def name(self) -> str:
        return self._name

    def is_due(self, now: float) -> bool:
        return now - self._renewed > RENEW_SECONDS and not self._busy.locked()

    def is_lost(self) -> bool:
        """Whether somebody else may have the key by now."""
        return self._lost or time.monotonic() - self._renewed > EXPIRY_SECONDS - RENEW_SECONDS

    def renew(self) -> None:
        began = time.monotonic()
        with self._busy:
            etag = self._backend.claim(self._name, self._etag, claim_text()) if not self._lost else ""
            self._lost = not etag
            if etag:
                self._etag, self._renewed = etag, began

    def release(self) -> None:
        with self._busy:
            if not self._lost:
                self._lost = True
                self._backend.delete(self._name, self._etag)


class Leases:
    """The leases of this server, kept alive by a thread that runs while there are any."""

    def __init__(self, backend: Backend, warn: Callable[[str, str], None]) -> None:
        self._backend, self._warn = backend, warn
        self._held: dict[str, Lease] = {}  # by key
        self._changed = threading.Condition()
        self._running = False
        self._seen: dict[str, tuple[str, float]] = {}  # locks that others hold: name -> ETag, and since when we see it
        self._ended = threading.Condition()  # of a task
        self._tasks = 0  # that run

    def acquire(self, key: str, seconds: float) -> bool:
        """Waits for the key, for so many seconds; says whether this server has it now."""
        name = lock_of(key)
        deadline, pause = time.monotonic() + seconds, FIRST_PAUSE
        while True:
            began = time.monotonic()
            etag = self._backend.claim(name, self._dead(name), claim_text())
            if etag:
                self._keep(key, Lease(self._backend, name, etag, began))
                return True
            self._watch(name)
            if time.monotonic() + pause > deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _watch(self, name: str) -> None:
        found = self._backend.stat(name)
        if found is None:
            self._seen.pop(name, None)
        elif found.etag != self._seen.get(name, ("", 0.0))[0]:
            self._seen[name] = found.etag, time.monotonic()

    def _dead(self, name: str) -> str:
        """The ETag of a lock that has not changed for so long that its server must be dead; "" of any other."""
        etag, since = self._seen.get(name, ("", 0.0))
        return etag if time.monotonic() - since > EXPIRY_SECONDS else ""

    def _keep(self, key: str, lease: Lease) -> None:
        with self._changed:
            self._seen.pop(lease.name, None)
            if not self._running:
                threading.Thread(target=self._keep_alive, name="leases", daemon=True).start()
                self._running = True
            self._held[key] = lease

    def _keep_alive(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(RENEW_SECONDS / 5)
                leases = list(self._held.values())
                self._running = bool(leases)
                if not leases:
                    return
            for lease in [lease for lease in leases if lease.is_due(time.monotonic())]:
                self._begin(lease.renew, "lease-not-renewed", lease.name)

    def _begin(self, task: Callable[[], None], failed: str, name: str) -> None:
        """In a thread of its own: one request that hangs costs no other lock, and not the end of the server."""

        def run() -> None:
            try:
                task()
            except OSError as error:  # it is tried again, or the lock expires
                self._warn(failed, f"{name}: {error}")
            finally:
                with self._ended:
                    self._tasks -= 1
                    self._ended.notify_all()

        with self._ended:
            self._tasks += 1
        try:
            threading.Thread(target=run, name="lease", daemon=True).start()
        except RuntimeError:  # no more threads to be had
            run()

    def unlocked(self, keys: Sequence[str]) -> set[str]:
        """Of many keys those that no server has at this moment, by one listing."""
        locked = set(self._backend.keys(LOCKS))
        return {key for key in keys if lock_of(key) not in locked}

    def check(self, key: str) -> None:
        """Raises ENOLCK where the key may be another server's by now; to be asked just before a commit."""
        lease = self._held.get(key)
        if lease is not None and lease.is_lost():
            raise OSError(errno.ENOLCK, "the lock of the upload expired")

    def release(self, key: str) -> None:
        """Lets go of the key, a moment later: no client waits for that."""
        with self._changed:
            lease = self._held.pop(key)
        self._begin(lease.release, "lease-not-released", lease.name)

    def remove_dead(self) -> None:
        """Deletes locks of servers that must be dead. One call sees a lock, one EXPIRY_SECONDS later knows."""
        names = list(self._backend.keys(LOCKS))
        for name in names:
            self._watch(name)
            dead = self._dead(name)
            if dead:
                self._backend.delete(name, dead)
        self._seen = {name: seen for name, seen in self._seen.copy().items() if name in names}

    def close(self) -> None:
        """Waits until all that was released is, for CLOSE_SECONDS at most."""
        with self._ended:
            self._ended.wait_for(lambda: not self._tasks, CLOSE_SECONDS)


def refuses_claims(backend: Backend, name: str) -> bool:
    first = backend.claim(name, "", claim_text())
    if not first or backend.claim(name, "", claim_text()):
        return False
    second = backend.claim(name, first, claim_text())
    return bool(second) and not backend.claim(name, first, claim_text()) and backend.delete(name, second)


def honours_conditions(backend: Backend) -> bool:
    """Whether a claim is refused where it has to be, and can be taken back: not every server, or account, does that."""
    name = f"{LOCKS}probe-{secrets.token_hex(8)}"
    try:
        honoured = refuses_claims(backend, name)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EIO):
            raise
        honoured = False
    if not honoured:
        with contextlib.suppress(OSError):  # what it did not let us write is not there
            backend.delete(name)
    return honoured
