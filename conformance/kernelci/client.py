"""The client of the checks: what the KernelCI storage protocol is made of, in words the checks can speak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import NamedTuple, Optional
from urllib.parse import quote

from conformance.core import expect, poll
from conformance.core.history import History
from conformance.core.verdict import DependencyFailed, Untestable
from conformance.core.wire import Connection, Headers, Response
from conformance.kernelci import tokens
from conformance.web import client as web
from conformance.web.client import HALF, Held, Refusal, Storing, Unread, named, payload

BOUNDARY = "conformance-7MA4YWxkTrZu0gW"


class Part(NamedTuple):
    """One part of a form. `filename` None: a text field. Bytes, because a check may send what is not UTF-8."""

    name: str
    content: bytes
    filename: Optional[bytes] = None
    extra: bytes = b""  # more parameters of Content-Disposition, or more header lines

    def head(self) -> bytes:
        line = b'Content-Disposition: form-data; name="' + self.name.encode() + b'"'
        if self.filename is not None:
            line += b'; filename="' + self.filename + b'"'
        line += self.extra
        if self.filename is not None:
            line += b"\r\nContent-Type: application/octet-stream"
        return b"--" + BOUNDARY.encode() + b"\r\n" + line + b"\r\n\r\n"


def field(name: str, value: str) -> Part:
    return Part(name, value.encode())


def file(filename: str, content: bytes, name: str = "file0") -> Part:
    return Part(name, content, filename.encode())


def form(*parts: Part) -> bytes:
    """The body of a multipart/form-data request."""
    body = b"".join(part.head() + part.content + b"\r\n" for part in parts)
    return body + b"--" + BOUNDARY.encode() + b"--\r\n"


FORM_TYPE = ("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")


def path_of(key: str) -> str:
    """The request path of a key: percent-encoded once, / kept."""
    return "/" + quote(key, safe="/")


class Client(web.Client):
    """The shared client, and tokens, keys, forms and locks. Everything is written under a folder of its own."""

    routes = ("/", "/robots.txt", "/favicon.ico", "/metrics", "/v1/checkauth", "/no/such/object")
    wrong_methods = (("GET", "/upload"), ("GET", "/v1/file"), ("POST", "/v1/checkauth"), ("DELETE", "/metrics"))
    refusal = Refusal("GET", "/v1/checkauth", 401)
    not_an_object = "/%00"

    # ------------------------------------------------------------------------------------------------- inputs

    @property
    def token(self) -> str:
        return self.secret("token", "a write token (--token-env)")

    def minted(self, claims: Mapping[str, object], algorithm: str = "HS256") -> str:
        """A token signed with the server's secret, where that was given."""
        return tokens.mint(self.secret("secret", "the secret of the server (--secret-env)"), claims, algorithm)

    @property
    def email(self) -> str:
        try:
            return str(tokens.claims_of(self.token)["email"])
        except (ValueError, KeyError, IndexError):
            raise Untestable("the write token is no JWT with an email: nothing can be said of its user") from None

    def authorised(self, token: Optional[str] = None) -> tuple[str, str]:
        return ("Authorization", f"Bearer {self.token if token is None else token}")

    def key(self, name: str) -> str:
        """A key of this check's own."""
        return f"{self.folder}/{name}"

    def download(self, key: str, **headers: str) -> Response:
        return self.get(path_of(key), **headers)

    # ------------------------------------------------------------------------------------------------ uploads

    def post(self, *parts: Part, route: str = "/v1/file", token: Optional[str] = None, **headers: str) -> Response:
        """Uploads a form of those parts."""
        return self.request("POST", route, [self.authorised(token), FORM_TYPE, *named(headers)], form(*parts))

    def upload(self, key: str, data: bytes, token: Optional[str] = None, **headers: str) -> Response:
        """Uploads `data` so that `key` results, path first."""
        where = PurePosixPath(key)
        return self.post(field("path", str(where.parent)), file(where.name, data), token=token, **headers)

    def stored(self, key: str, data: bytes, **headers: str) -> str:
        """Uploads as a preparation, and gives the key."""
        response = self.upload(key, data, None, **headers)
        if response.status != 200:
            raise DependencyFailed(f"the upload this check builds on was answered {expect.describe(response)}")
        return key

    def storing(self, name: str) -> Storing:
        """A form that every server which misreads its framing would store: only the framing can be wrong."""
        content = f"the content of {name}".encode()
        body = form(field("path", self.folder), file(name, content))

        def head(framing: Headers) -> bytes:
            return self.head("POST", "/v1/file", [self.authorised(), FORM_TYPE, *framing])

        return Storing(path_of(self.key(name)), content, body, head, 200)

    def stored_as(self, name: str, data: bytes) -> str:
        return path_of(self.stored(self.key(name), data))

    def missing(self) -> str:
        return path_of(self.key("missing"))

    def unread(self) -> Sequence[Unread]:
        return (
            Unread("an upload without a token", "POST", "/v1/file", (), (401,)),
            Unread("a POST to a path without a route", "POST", "/no/such/route", (), (404, 405)),
            Unread("a GET with content", "GET", "/", (), (200, 400)),
            Unread("a GET of nothing with content", "GET", "/no/such/object", (), (404, 400)),
        )

    def has(self, key: str, data: bytes, context: str = "") -> Response:
        """Expects the object to be there with these bytes."""
        response = expect.status(self.download(key), 200, context=context or f"GET of {key}")
        expect.body(response, data, context or f"the content of {key}")
        return response

    def has_not(self, key: str, context: str = "") -> None:
        expect.status(self.download(key), 404, context=context or f"GET of {key}")

    def listed(self, prefix: Optional[str] = None) -> list[str]:
        """The lines of the listing; of all of it, unless a prefix is given."""
        query = "" if prefix is None else "?prefix=" + quote(prefix)
        response = expect.status(self.request("GET", "/v1/list" + query), 200, context="GET /v1/list")
        return response.body.decode("utf-8", "surrogateescape").splitlines()

    def listed_if_any(self) -> list[str]:
        """The lines of the listing, none where the server has no list."""
        capability = self.run.capabilities.get("list")
        return [] if capability is not None and capability.state == "off" else self.listed()

    # ------------------------------------------------------------------------------------------ hold and probe

    def half_sent(self, *parts: Part, content: bytes, filename: str) -> Held:
        """An upload of those parts and then a file of which half is on the wire."""
        body = form(*parts, file(filename, content))
        ending = len(f"\r\n--{BOUNDARY}--\r\n")
        cut = len(body) - ending - len(content) // 2
        connection = self.connection()
        sized = [self.authorised(), FORM_TYPE, ("Content-Length", str(len(body)))]
        connection.send(self.head("POST", "/v1/file", sized) + body[:cut])
        return Held(connection, body[cut:], content)

    def held(self, key: str, label: str) -> Held:
        """An upload of `key` under way, its path known and half of its content on the wire."""
        where = PurePosixPath(key)
        content = payload(label, 2 * HALF)
        return self.half_sent(field("path", str(where.parent)), content=content, filename=where.name)

    def waiting_reader(self, key: str) -> Optional[Connection]:
        """A download of `key` that stays unanswered for a window, None when it is answered."""
        reader = self.connection()
        reader.send(self.head("GET", path_of(key)))
        if not reader.answered_within(poll.WINDOW):
            return reader
        reader.close()
        return None

    @contextmanager
    def holding(self, key: str, label: str = "held") -> Iterator[Held]:
        """Holds an upload of `key`, if it can until its lock shows: a download of the key waits.

        No sleep: a download that is answered came before the server took the lock, so the next one is asked; one that
        stays unanswered for a window shows the lock, and stays as its witness. A server whose readers never wait
        (DL-06a judges that) has read the better part of half a MiB by then, and is probed all the same.
        """
        held = self.held(key, label)
        try:
            held.reader = self.patience.eventually("settle", lambda: self.waiting_reader(key), "a waiting download")
        except expect.Violation:
            self.transcript.note("the lock does not show: downloads do not wait for the upload")
        held.begun = History.now()
        try:
            yield held
        finally:
            held.connection.close()
            if held.reader is not None:
                held.reader.close()
