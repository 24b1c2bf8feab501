"""The smallest right Stor server: every clause that can be seen from outside, files on all its storages.

It is independent of every other server. Each rule of the protocol is one small method, so that a fault is one override.
Uploads of one name do not wait for each other: each writes files of its own, and who comes second throws them away.
`python -m conformance.selftest.stor.reference --port N DIR DIR` serves those storages.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import os
import random
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO, Callable, NamedTuple, Optional

from conformance.selftest.web import server
from conformance.selftest.web.server import Answer, Body, Headers, Refused, Request, Stored, WebServer


@dataclass
class Settings(server.Settings):
    """What an operator of the reference chooses. Sizes in bytes."""

    storages: tuple[Path, ...] = ()
    credentials: str = "writer:the writer's own password"
    room: int = 1 << 50  # that it says to have on its pair


class Received(NamedTuple):
    """A body that was written to a file on each storage, and its hash."""

    files: list[Path]
    name: str


class Reference(WebServer):
    """The server. Override one method, and it has one fault."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.guard = threading.RLock()  # around the look and the renames of what ends an upload
        self.answered = 0

    def routes(self) -> dict[str, dict[str, Callable[[Request], Answer]]]:
        return {"/": {"GET": self.banner}, "/status": {"GET": self.status}, "/metrics": {"GET": self.metrics}}

    def object_methods(self) -> dict[str, Callable[[Request], Answer]]:
        return {"GET": self.download, "POST": self.upload}

    def banner(self, request: Request) -> Answer:
        return self.text(200, "This is Stor, a reference")

    def metrics_text(self) -> str:
        self.answered += 1
        return f'# TYPE stor_scrapes counter\nstor_scrapes{{hostname="reference"}} {self.answered}\n'

    # ------------------------------------------------------------------------------------------------- status

    def status(self, request: Request) -> Answer:
        away = self.away()
        return self.unavailable(away) if away else self.text(200, "OK")

    def away(self) -> list[Path]:
        return [folder for folder in self.settings.storages if not folder.is_dir()]

    def unavailable(self, away: list[Path]) -> Answer:
        return self.text(503, "Not available: " + ", ".join(map(str, away)))

    # -------------------------------------------------------------------------------------------------- names

    def name(self, path: str) -> Optional[str]:
        """The SHA-256 that a path names, in lower case."""
        return path[1:].lower() if re.fullmatch("/[0-9A-Fa-f]{64}", path) else None

    def post_name(self, request: Request) -> str:
        name = self.name(request.path)
        if name is None:
            raise Refused(412, f"Given hash '{request.path[1:]}' isn't sha256")
        return name

    def file(self, folder: Path, name: str) -> Path:
        upper = name.upper()
        return folder / upper[:2] / upper[2:4] / upper[4:6] / f"{upper}.dat"

    def files(self, name: str) -> list[Path]:
        return [self.file(folder, name) for folder in self.settings.storages]

    # ------------------------------------------------------------------------------------------------ objects

    def download(self, request: Request) -> Answer:
        name = self.name(request.path)
        stored = None if name is None else self.look_up(name)
        if name is None or stored is None:
            raise self.missing(request.path[1:])
        return self.served(request, name, stored)

    def missing(self, name: str) -> Refused:
        return Refused(404, f"File '{name}' not found")

    def look_up(self, name: str) -> Optional[Stored]:
        """A good copy, from any storage. The bad ones are made good."""
        files = self.files(name)
        for path in self.in_order(files):
            data = self.read(path)
            if data is not None and self.whole(name, data):
                self.restore(name, data, [other for other in files if other != path])
                return Stored(data, "application/octet-stream", self.etag(name), int(path.stat().st_mtime))
        return None

    def in_order(self, files: list[Path]) -> list[Path]:
        return random.sample(files, len(files))

    def read(self, path: Path) -> Optional[bytes]:
        try:
            return path.read_bytes()
        except OSError:
            return None

    def whole(self, name: str, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() == name

    def restore(self, name: str, data: bytes, files: list[Path]) -> None:
        for folder, path in zip(self.settings.storages, self.files(name)):
            found = self.read(path) if path in files else data
            if (found is None or not self.whole(name, found)) and folder.is_dir():
                with self.guard:
                    beside = self.temporary(folder)
                    beside.write_bytes(data)
                    self.place(beside, path)

    def etag(self, name: str) -> str:
        return f'"{name}"'

    def object_headers(self, key: str, stored: Stored) -> Headers:
        return [
            ("Content-Type", stored.kind),
            ("Accept-Ranges", "bytes"),
            ("ETag", stored.etag),
            ("Last-Modified", formatdate(stored.modified, usegmt=True)),
            *self.cache_control(),
            *self.repr_digest(stored.data),
        ]

    def cache_control(self) -> Headers:
        return [("Cache-Control", "public, max-age=31536000, immutable")]

    def repr_digest(self, data: bytes) -> Headers:
        return [("Repr-Digest", f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:")]

    # -------------------------------------------------------------------------------------------- credentials

    def authenticate(self, request: Request) -> None:
        """Raises Refused(401)."""
        given = self.credentials(request)
        if given is None or not self.match(given, self.settings.credentials.encode()):
            raise Refused(401, "Unauthorized", self.challenge())

    def match(self, given: bytes, right: bytes) -> bool:
        return hmac.compare_digest(given, right)

    def credentials(self, request: Request) -> Optional[bytes]:
        scheme, _, coded = request.headers.get("authorization", "").partition(" ")
        if not self.scheme_known(scheme):
            return None
        try:
            return self.decoded_pair(coded)
        except ValueError:
            return None

    def scheme_known(self, scheme: str) -> bool:
        return scheme.lower() == "basic"

    def decoded_pair(self, coded: str) -> bytes:
        return base64.b64decode(coded, validate=True)

    def challenge(self) -> Headers:
        return [("WWW-Authenticate", 'Basic realm="Stor"')]

    # ------------------------------------------------------------------------------------------------ storing

    def upload(self, request: Request) -> Answer:
        name = self.post_name(request)
        self.authenticate(request)
        if self.stored(name):
            return self.found()
        self.check_room(request)
        with self.received(request.body) as received:
            self.check_content(name, received.name)
            with self.guard:
                if self.stored(name):
                    return self.found()
                self.commit(name, received.files)
        return self.created()

    def stored(self, name: str) -> bool:
        return self.look_up(name) is not None

    def check_room(self, request: Request) -> None:
        if int(request.headers.get("content-length", "0")) > self.settings.room:
            raise Refused(507, "No pair has room for it")

    def check_content(self, name: str, content: str) -> None:
        if content != name:
            raise Refused(412, f"Content sha256 {content} doesn't match given sha256 {name}")

    def found(self) -> Answer:
        return self.json(200, self.places())

    def created(self) -> Answer:
        return self.json(201, self.places())

    def places(self) -> object:
        return [str(folder) for folder in self.settings.storages]

    @contextmanager
    def received(self, body: Body) -> Iterator[Received]:
        """The body in a file on each storage. Files that nobody placed are gone at the end, whatever happened."""
        files = [self.temporary(folder) for folder in self.settings.storages]
        try:
            yield Received(files, self.written(body, files))
        finally:
            self.clean(files)

    def temporary(self, folder: Path) -> Path:
        return folder / f".{uuid.uuid4().hex}.part"

    def clean(self, files: list[Path]) -> None:
        for path in files:
            path.unlink(missing_ok=True)

    def written(self, body: Body, files: list[Path]) -> str:
        """The hash of the body. Raises Refused(507) without a storage to write to."""
        digest = hashlib.sha256()
        opened = [self.opened(path) for path in files]
        try:
            for data in self.pieces(body):
                digest.update(data)
                for out in opened:
                    out.write(data)
            for out in opened:
                out.flush()
                os.fsync(out.fileno())
        finally:
            for out in opened:
                out.close()
        return digest.hexdigest()

    def opened(self, path: Path) -> BinaryIO:
        try:
            return path.open("xb")
        except OSError:
            raise Refused(507, "No pair is whole") from None

    def pieces(self, body: Body) -> Iterator[bytes]:
        while data := body.some():
            yield data

    def commit(self, name: str, written: list[Path]) -> None:
        for beside, path in zip(written, self.files(name)):
            self.place(beside, path)

    def place(self, beside: Path, path: Path) -> None:
        """RENAME and then the folder: after a crash there is the whole file or none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def main() -> None:
    """Serves until it is killed; prints the port."""
    parser = argparse.ArgumentParser()
    parser.add_argument("storages", nargs="+", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--credentials", default=Settings.credentials)
    arguments = parser.parse_args()
    for folder in arguments.storages:
        folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(storages=tuple(arguments.storages), credentials=arguments.credentials)
    print(Reference(settings).start(arguments.port), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
