"""The client of the checks: names, credentials and copies, in words the checks can speak."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from conformance.core import expect, poll
from conformance.core.verdict import DependencyFailed, Untestable
from conformance.core.wire import Headers, Response
from conformance.web import client as web
from conformance.web.client import Held, Refusal, Storing, Unread, payload

EXPECT = ("Expect", "100-continue")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def path_of(data: bytes) -> str:
    """Where those bytes are, or would be."""
    return "/" + sha256(data)


NEVER = path_of(b"The conformance suite never stores this.")


def listed(body: bytes, context: str = "") -> list[str]:
    """The paths of a JSON list."""
    try:
        found = json.loads(body)
    except ValueError:
        raise expect.Violation("a JSON list", repr(body[:120]), context) from None
    good = isinstance(found, list) and found and all(isinstance(one, str) and one for one in found)
    expect.that(bool(good), "a JSON list of paths", repr(body[:120]), context)
    return [str(one) for one in found]


def paths(response: Response, context: str = "") -> list[str]:
    """The storage paths that a 200 or 201 lists."""
    expect.equal(expect.media_type(response)[0], "application/json", f"{context}: the type of the answer")
    return listed(response.body, context)


class Client(web.Client):
    """The shared client, and credentials, raw bodies and the folders of the storages. What it stores stays for ever.

    Every check makes bytes of its own, from the namespace of the run: nothing was stored before.
    """

    routes = ("/", "/status", "/metrics", NEVER)
    wrong_methods = (("DELETE", "/metrics"), ("DELETE", "/status"), ("PUT", "/"))
    refusal = Refusal("POST", NEVER, 401)
    not_an_object = "/%00"

    # ------------------------------------------------------------------------------------------------- inputs

    @property
    def credentials(self) -> str:
        return self.secret("basic", "credentials that may write (--basic-env)")

    def authorised(self, credentials: Optional[str] = None) -> tuple[str, str]:
        pair = self.credentials if credentials is None else credentials
        return ("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())

    @property
    def storages(self) -> list[Path]:
        """The folders of the server's only pair."""
        if not self.run.options.storages:
            raise Untestable("needs --storage DIR for each storage of the server's only pair, on this host")
        return [Path(folder) for folder in self.run.options.storages]

    # ---------------------------------------------------------------------------------------------- storing

    def fresh(self, name: str, size: int = 1000) -> bytes:
        """Bytes of this check's own that were never stored."""
        return payload(f"{self.folder}/{name}", size)

    def post_head(self, path: str, headers: Headers = ()) -> bytes:
        return self.head("POST", path, [self.authorised(), *headers])

    def post(self, path: str, body: bytes, *headers: tuple[str, str]) -> Response:
        """POSTs with the right credentials."""
        return self.request("POST", path, [self.authorised(), *headers], body)

    def store(self, data: bytes) -> Response:
        return self.post(path_of(data), data)

    def stored(self, data: bytes) -> str:
        """Stores as a preparation, and gives the path. Raises DependencyFailed."""
        response = self.store(data)
        if response.status not in (200, 201):
            raise DependencyFailed(f"the POST this check builds on was answered {expect.describe(response)}")
        return path_of(data)

    def has(self, data: bytes, context: str = "") -> Response:
        """Expects the object to be there with these bytes."""
        response = expect.status(self.get(path_of(data)), 200, context=context or "GET")
        expect.body(response, data, context or "the content")
        return response

    def has_not(self, data: bytes, context: str = "") -> None:
        expect.status(self.get(path_of(data)), 404, context=context or "GET")

    def half_sent(self, data: bytes, path: Optional[str] = None) -> Held:
        """A POST of the bytes, the first half of them on the wire, and the server had its turn to begin with it.

        Who came in later than the POST was answered, or held up for a window. That is no proof, but the order in
        which a server begins is that in which connections came, on all but the busiest of machines.
        """
        connection = self.connection()
        sized = [("Content-Length", str(len(data)))]
        half = len(data) // 2
        connection.send(self.post_head(path or path_of(data), sized) + data[:half])
        later = self.connection()
        later.send(self.head("GET", "/"))
        later.answered_within(poll.WINDOW)
        later.close()
        return Held(connection, data[half:], data)

    # ------------------------------------------------------------------------------- what shared checks ask for

    def storing(self, name: str) -> Storing:
        data = self.fresh(name)
        return Storing(path_of(data), data, data, lambda framing: self.post_head(path_of(data), framing), 201)

    def stored_as(self, name: str, data: bytes) -> str:
        return self.stored(data)

    def missing(self) -> str:
        return path_of(self.fresh("missing"))

    def unread(self) -> Sequence[Unread]:
        right = [self.authorised()]
        return (
            Unread("a POST without credentials", "POST", self.missing(), (), (401,)),
            Unread("a POST to what is no SHA-256", "POST", "/no-sha256", right, (412,)),
            Unread("a POST of what is stored", "POST", self.stored(self.fresh("stored")), right, (200,)),
            Unread("a GET with content", "GET", "/", (), (200, 400)),
            Unread("a GET of nothing with content", "GET", self.missing(), (), (404, 400)),
        )

    # -------------------------------------------------------------------------------------------- the storages

    def files_of(self, data: bytes) -> list[Path]:
        """Where its copies must stand, one on each storage."""
        name = sha256(data).upper()
        return [folder / name[:2] / name[2:4] / name[4:6] / f"{name}.dat" for folder in self.storages]

    def copies(self, data: bytes) -> list[Path]:
        """Stores the bytes, and gives the files of their copies. Raises DependencyFailed."""
        self.stored(data)
        found = self.files_of(data)
        for path in found:
            if not path.is_file() or path.read_bytes() != data:
                raise DependencyFailed(f"this check builds on a copy at {path}, which is not there")
        return found

    @contextmanager
    def meddling(self) -> Iterator[None]:
        """Around what changes files of the server: without the right to do so nothing can be judged."""
        try:
            yield
        except OSError as error:
            raise Untestable(f"the storages cannot be changed from here: {error}") from None
