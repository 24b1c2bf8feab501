"""The smallest right KernelCI server: every clause that can be seen from outside, objects in memory.

It is independent of every other server and slow on purpose nowhere. Each rule of the protocol is one small method, so
that a fault is one override. The store and the locks are shared between the threads and guarded.
`python -m conformance.selftest.kernelci.reference --port N --journal FILE` keeps its objects over a kill.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import io
import ipaddress
import json
import lzma
import mimetypes
import os
import pickle
import re
import struct
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import BinaryIO, Callable, NamedTuple, Optional
from urllib.parse import parse_qs, quote

from conformance.kernelci import tokens
from conformance.selftest.web import server
from conformance.selftest.web.server import Answer, Body, Headers, Refused, Request, Stored, WebServer

TYPES = {
    "bin": "application/octet-stream",
    "txt": "text/plain",
    "log": "text/plain",
    "gz": "application/gzip",
    "tar": "application/x-tar",
    "zip": "application/zip",
    "tgz": "application/x-gzip",
    "xz": "application/x-xz",
    "lz": "application/x-lzip",
    "json": "application/json",
}
BANNED_AGENTS = ("gptbot", "ccbot", "ahrefsbot", "semrushbot", "bytespider", "mj12bot")
CHALLENGE_PAGE = """<!doctype html><title>Please wait</title><p>Please wait …
<script>fetch("/v1/download-challenge",{method:"POST"}).then(()=>location.reload())</script>
<noscript><a href="?challenge_fallback=1">Download slowly</a></noscript>
"""


@dataclass
class Settings(server.Settings):
    """What an operator of the reference chooses. Times in seconds, sizes in bytes."""

    secret: str = "the reference's own secret, long enough"
    users: dict[str, list[str]] = field(default_factory=dict)
    blocked: tuple[str, ...] = ("192.0.2.0/24",)
    trusted: tuple[str, ...] = ("127.0.0.0/8", "::1/128", "10.0.0.0/8")
    challenge_agents: tuple[str, ...] = ("challenged-browser",)
    fallback_rate: int = 50_000
    upload_limit: int = 4 << 30
    member_limit: int = 512 << 20
    files_limit: int = 10_000
    lock_wait: float = 30.0
    journal: Optional[str] = None


class LockTable:
    """One upload a key at a time. Waiting is bounded; everything is guarded by one condition."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.held: set[str] = set()

    def wait_free(self, key: str, seconds: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: key not in self.held, seconds)

    @contextmanager
    def holding(self, key: str, seconds: float) -> Iterator[None]:
        with self.changed:
            if not self.changed.wait_for(lambda: key not in self.held, seconds):
                raise Refused(409, "Timeout waiting for upload")
            self.held.add(key)
        try:
            yield
        finally:
            with self.changed:
                self.held.discard(key)
                self.changed.notify_all()


class Part(NamedTuple):
    name: str
    filename: Optional[bytes]
    content: bytes


@dataclass
class Form:
    """What an upload has said so far. `path` None: not said."""

    path: Optional[bytes] = None
    files: list[Part] = field(default_factory=list)


class Reference(WebServer):
    """The server. Override one method, and it has one fault."""

    settings: Settings

    def __init__(self, settings: Optional[Settings] = None) -> None:
        super().__init__(settings or Settings())
        self.objects: dict[str, Stored] = {}
        self.guard = threading.Lock()
        self.locks = LockTable()
        self.versions = 0
        self.journal: Optional[BinaryIO] = None

    def prepare(self) -> None:
        if self.settings.journal:
            self.recover(self.settings.journal)

    def routes(self) -> dict[str, dict[str, Callable[[Request], Answer]]]:
        return {
            "/": {"GET": self.banner},
            "/robots.txt": {"GET": self.robots},
            "/favicon.ico": {"GET": self.favicon},
            "/metrics": {"GET": self.metrics},
            "/upload": {"POST": self.upload},
            "/v1/file": {"POST": self.upload},
            "/v1/archive": {"POST": self.archive},
            "/v1/checkauth": {"GET": self.checkauth},
            "/v1/list": {"GET": self.listing},
            "/v1/download-challenge": {"POST": self.challenge},
        }

    def object_methods(self) -> dict[str, Callable[[Request], Answer]]:
        return {"GET": self.download}

    # --------------------------------------------------------------------------------------------------- gates

    def admit(self, request: Request, peer: str) -> None:
        if self.agent_banned(request.agent) or self.subnet_blocked(self.client_address(request, peer)):
            raise Refused(403, "Forbidden")

    def agent_banned(self, agent: str) -> bool:
        return any(word in agent.lower() for word in BANNED_AGENTS)

    def trusted(self, address: str) -> bool:
        return self.inside(address, self.settings.trusted)

    def inside(self, address: str, networks: tuple[str, ...]) -> bool:
        try:
            parsed = ipaddress.ip_address(address.strip('" []'))
        except ValueError:
            return False
        return any(parsed in ipaddress.ip_network(network) for network in networks)

    def subnet_blocked(self, address: str) -> bool:
        return self.inside(address, self.settings.blocked)

    def client_address(self, request: Request, peer: str) -> str:
        if not self.trusted(peer):
            return peer
        hops = self.forwarded(request)
        return next((hop for hop in reversed(hops) if not self.trusted(hop)), peer)

    def forwarded(self, request: Request) -> list[str]:
        listed = request.headers.get("x-forwarded-for")
        if listed is not None:
            return [hop.strip() for hop in listed.split(",")]
        return re.findall(r'(?i)for="?\[?([0-9A-Fa-f.:]+)', request.headers.get("forwarded", ""))

    # ----------------------------------------------------------------------------------------------- challenge

    def challenged(self, request: Request) -> bool:
        """Whether this download must show the page first."""
        return self.challenge_agent(request) and not self.cookie_valid(request)

    def challenge_agent(self, request: Request) -> bool:
        return any(agent in request.agent for agent in self.settings.challenge_agents)

    def cookie_name(self) -> str:
        return "kci-download"

    def cookie_valid(self, request: Request) -> bool:
        for pair in request.headers.get("cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self.cookie_name():
                return self.cookie_claims(value) is not None
        return False

    def cookie_claims(self, value: str) -> Optional[dict[str, object]]:
        return self.signed_claims(value)

    def challenge(self, request: Request) -> Answer:
        if not self.challenge_agent(request):
            raise Refused(403, "Forbidden")
        value = tokens.mint(self.settings.secret, {"exp": int(time.time()) + 600, "net": "127.0.0.0/24"})
        return Answer(204, b"", [("Set-Cookie", f"{self.cookie_name()}={value}{self.cookie_attributes()}")])

    def cookie_attributes(self) -> str:
        return "; Path=/; Max-Age=600; HttpOnly; SameSite=Lax"

    def challenge_page(self) -> Answer:
        headers = [("Content-Type", "text/html; charset=utf-8"), *self.challenge_page_headers()]
        return Answer(200, CHALLENGE_PAGE.encode(), headers)

    def challenge_page_headers(self) -> Headers:
        policy = "default-src 'none'; script-src 'unsafe-inline'; connect-src 'self'"
        return [
            ("Cache-Control", "no-store, private"),
            ("Content-Security-Policy", policy),
            ("Referrer-Policy", "no-referrer"),
        ]

    def fallback(self, request: Request) -> bool:
        return self.settings.fallback_rate > 0 and "1" in parse_qs(request.query).get("challenge_fallback", [])

    # -------------------------------------------------------------------------------------------------- tokens

    def credential(self, request: Request) -> str:
        """The token, whatever scheme word stands before it."""
        return request.headers.get("authorization", "").split(" ")[-1]

    def authenticate(self, request: Request) -> str:
        """The email of the user. Raises Refused(401)."""
        claims = self.token_claims(self.credential(request))
        email = self.email(claims) if claims is not None else None
        if email is None:
            raise Refused(401, "Unauthorized", self.authenticate_headers())
        return email

    def authenticate_headers(self) -> Headers:
        return [("WWW-Authenticate", "Bearer")]

    def token_claims(self, token: str) -> Optional[dict[str, object]]:
        return self.signed_claims(token)

    def signed_claims(self, token: str) -> Optional[dict[str, object]]:
        try:
            head, _, signature = tokens.split(token)
            header = json.loads(tokens.decode(head))
            claims = tokens.claims_of(token)
            algorithm = str(header.get("alg"))
            signed = token.rpartition(".")[0].encode()
            if not self.signature_right(algorithm, signed, tokens.decode(signature)):
                return None
        except (ValueError, AttributeError, UnicodeError):
            return None
        return claims if self.in_time(claims) else None

    def signature_right(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        if algorithm != "HS256":
            return False
        return any(self.hmac_right(secret, hashlib.sha256, signed, signature) for secret in self.secrets())

    def secrets(self) -> list[str]:
        return [self.settings.secret]

    def hmac_right(self, secret: str, digest: Callable[..., object], signed: bytes, signature: bytes) -> bool:
        made = hmac.new(secret.encode(), signed, digest)  # type: ignore[arg-type]
        return hmac.compare_digest(made.digest(), signature)

    def in_time(self, claims: dict[str, object]) -> bool:
        return self.not_expired(claims, time.time()) and self.already_valid(claims, time.time())

    def not_expired(self, claims: dict[str, object], now: float) -> bool:
        expires = claims.get("exp", now + 1)
        return isinstance(expires, (int, float)) and expires > now

    def already_valid(self, claims: dict[str, object], now: float) -> bool:
        begins = claims.get("nbf", now)
        return isinstance(begins, (int, float)) and begins <= now

    def email(self, claims: dict[str, object]) -> Optional[str]:
        found = claims.get("email")
        return found if isinstance(found, str) and found else None

    def checkauth(self, request: Request) -> Answer:
        return self.text(200, f"Authorized: {self.authenticate(request)}")

    def permit(self, owner: str, key: str, path: Optional[bytes]) -> None:
        """Raises Refused(403) for a key outside the user's prefixes."""
        if owner in self.settings.users and not self.covered(self.settings.users[owner], key):
            raise Refused(403, self.forbidden_text(owner, key))

    def covered(self, prefixes: list[str], key: str) -> bool:
        return any(key.startswith(prefix.lstrip("/")) for prefix in prefixes)

    def forbidden_text(self, owner: str, key: str) -> str:
        return f"User {owner} has no upload permissions for path {key}"

    # ---------------------------------------------------------------------------------------------------- keys

    def storage_key(self, path: Optional[bytes], filename: bytes) -> str:
        """The key of an upload. Raises Refused(400)."""
        raw = self.joined(path or b"", filename)
        try:
            text = self.key_text(raw)
        except UnicodeDecodeError:
            raise Refused(400, "The key is not UTF-8") from None
        segments = self.segments(text)
        key = "/".join(segments)
        self.check_characters(key)
        self.check_dots(segments)
        self.check_segment_length(segments)
        self.check_key_length(key)
        self.check_empty(key)
        self.check_reserved(segments)
        self.check_shadowed(key)
        return key

    def joined(self, path: bytes, filename: bytes) -> bytes:
        return path + b"/" + filename

    def key_text(self, raw: bytes) -> str:
        return raw.decode("utf-8")

    def segments(self, text: str) -> list[str]:
        return [segment for segment in text.split("/") if segment not in ("", ".")]

    def check_characters(self, key: str) -> None:
        if re.search(r"[\x00-\x1f\x7f]", key):
            raise Refused(400, "Control character in the key")

    def check_dots(self, segments: list[str]) -> None:
        if ".." in segments:
            raise Refused(400, "A .. segment in the key")

    def check_segment_length(self, segments: list[str]) -> None:
        if any(len(segment.encode()) > 255 for segment in segments):
            raise Refused(400, "A segment over 255 bytes")

    def check_key_length(self, key: str) -> None:
        if len(key.encode()) > 1024:
            raise Refused(400, "A key over 1024 bytes")

    def check_empty(self, key: str) -> None:
        if not key:
            raise Refused(400, "An empty key")

    def check_reserved(self, segments: list[str]) -> None:
        if segments[:1] == [".metadata"]:
            raise Refused(400, "A reserved name")

    def check_shadowed(self, key: str) -> None:
        if "/" + key in self.routes():
            raise Refused(400, "A route of the server")

    # ----------------------------------------------------------------------------------------------- multipart

    def boundary(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "")
        match = re.search(r'boundary="?([^";]+)"?', kind)
        if not kind.lower().startswith("multipart/form-data") or match is None:
            raise Refused(400, "Not a multipart/form-data form")
        return match[1].encode("latin-1")

    def parts(self, body: Body, boundary: bytes, begun: Callable[[str, Optional[bytes]], None]) -> Iterator[Part]:
        """The parts of a form as they end; `begun` hears of each as soon as its head is there."""
        mark = b"\r\n--" + boundary
        buffer = bytearray(b"\r\n")
        self._fill(body, buffer, mark)
        del buffer[: buffer.index(mark) + len(mark)]
        while True:
            self._fill(body, buffer, b"\r\n")
            line = bytes(buffer[: buffer.index(b"\r\n")])
            del buffer[: len(line) + 2]
            if line.strip(b" \t") == b"--":
                return self.epilogue(body)
            if line.strip(b" \t"):
                raise Refused(400, "Malformed boundary")
            self._fill(body, buffer, b"\r\n\r\n")
            head = bytes(buffer[: buffer.index(b"\r\n\r\n")])
            del buffer[: len(head) + 4]
            name, filename = self.part_names(head)
            begun(name, filename)
            self._fill(body, buffer, mark)
            at = buffer.index(mark)
            yield Part(name, filename, bytes(buffer[:at]))
            del buffer[: at + len(mark)]

    def epilogue(self, body: Body) -> None:
        """Reads what was declared behind the form: a body that ends early is no upload."""
        while body.some():
            continue

    def _fill(self, body: Body, buffer: bytearray, mark: bytes) -> None:
        searched = 0
        while buffer.find(mark, searched) < 0:
            searched = max(0, len(buffer) - len(mark))
            data = body.some()
            if not data:
                raise Refused(400, "The form ends early")
            buffer += data

    def part_names(self, head: bytes) -> tuple[str, Optional[bytes]]:
        match = re.search(rb"(?i)(?:^|\r\n)content-disposition:[ \t]*form-data([^\r\n]*)", head)
        name = re.search(rb';[ \t]*name="([^"]*)"', match[1]) if match else None
        if match is None or name is None:
            raise Refused(400, "A part without a name")
        return name[1].decode("utf-8", "replace"), self.part_filename(match[1])

    def part_filename(self, parameters: bytes) -> Optional[bytes]:
        found = re.search(rb';[ \t]*filename="((?:[^"\\]|\\.)*)"', parameters, re.DOTALL)
        return re.sub(rb"\\([\"\\])", rb"\1", found[1]) if found else None

    # ------------------------------------------------------------------------------------------------- uploads

    def upload(self, request: Request) -> Answer:
        owner = self.authenticate(request)
        boundary = self.boundary(request)
        self.check_size(request)
        form = Form()
        ready: dict[str, bytes] = {}
        with ExitStack() as held:

            def take(path: Optional[bytes], filename: bytes) -> str:
                key = self.storage_key(path, filename)
                self.permit(owner, key, path)
                if key not in ready:
                    held.enter_context(self.locked(key, path, filename))
                    ready[key] = b""
                    self.begin(key)
                return key

            def begun(name: str, filename: Optional[bytes]) -> None:
                if form.path is not None and filename is not None and self.is_file(name):
                    take(form.path, filename)

            for part in self.parts(request.body, boundary, begun):
                self.take_part(form, part)
            self.check_form(form)
            for part in form.files:
                ready[take(form.path, part.filename or b"")] = part.content
            for key, data in ready.items():
                self.commit(key, data, self.upload_type(request, key), owner)
        return self.stored_answer(list(ready))

    def check_size(self, request: Request) -> None:
        if int(request.headers.get("content-length", "0")) > self.settings.upload_limit:
            raise Refused(413, "Too large")

    def locked(self, key: str, path: Optional[bytes], filename: bytes) -> AbstractContextManager[None]:
        return self.locks.holding(key, self.settings.lock_wait)

    def begin(self, key: str) -> None:
        """An upload of the key has begun: a right server shows nothing of it."""

    def is_file(self, name: str) -> bool:
        return re.fullmatch(r"file[0-9]+", name) is not None

    def take_part(self, form: Form, part: Part) -> None:
        if part.name == "path":
            form.path = part.content
        elif self.is_file(part.name):
            self.check_filename(part)
            form.files.append(part)

    def check_filename(self, part: Part) -> None:
        if not part.filename:
            raise Refused(400, "No filename provided")

    def check_form(self, form: Form) -> None:
        if not any(part.name == "file0" for part in form.files):
            raise Refused(400, "No file0 field in upload")

    def upload_type(self, request: Request, key: str) -> str:
        return request.headers.get("content-type-upstream") or self.type_of(key)

    def type_of(self, key: str) -> str:
        extension = key.rpartition("/")[2].rpartition(".")[2].lower() if "." in key.rpartition("/")[2] else ""
        return TYPES.get(extension) or self.other_type(key)

    def other_type(self, key: str) -> str:
        return mimetypes.guess_type(key, strict=True)[0] or "application/octet-stream"

    def stored_answer(self, keys: list[str]) -> Answer:
        return Answer(200, b"", [("ETag", self.objects[keys[0]].etag)])

    def commit(self, key: str, data: bytes, kind: str, owner: str) -> None:
        """Makes the new version the current one, whole. Raises Refused(409) for a file in the way."""
        self.check_way(key)
        with self.guard:
            self.versions += 1
            version = Stored(data, kind, self.etag(key, data, self.versions), int(time.time()), owner)
            if self.journal is not None:
                self.record(key, version)
            self.objects[key] = version

    def check_way(self, key: str) -> None:
        with self.guard:
            parents = {key.rpartition("/")[0]}
            while "" not in parents:
                parents |= {parent.rpartition("/")[0] for parent in parents}
            if parents & set(self.objects) or any(other.startswith(key + "/") for other in self.objects):
                raise Refused(409, "A file is in the way")

    def etag(self, key: str, data: bytes, version: int) -> str:
        return f'"{hashlib.sha256(data).hexdigest()[:16]}-{version:x}"'

    def record(self, key: str, version: Stored) -> None:
        assert self.journal is not None
        entry = pickle.dumps((key, version))
        self.journal.write(struct.pack("<I", len(entry)) + entry)
        self.journal.flush()
        os.fsync(self.journal.fileno())

    def recover(self, path: str) -> None:
        """Reads the journal of the last life; an entry cut short by a kill is dropped."""
        self.journal = open(path, "a+b")  # noqa: SIM115 - open as long as the server lives
        self.journal.seek(0)
        data = self.journal.read()
        at = 0
        while at + 4 <= len(data):
            (size,) = struct.unpack_from("<I", data, at)
            if at + 4 + size > len(data):
                break
            key, version = pickle.loads(data[at + 4 : at + 4 + size])
            self.objects[key] = version
            at += 4 + size
        self.versions = len(self.objects) + int(time.time())
        self.journal.truncate(at)

    # ------------------------------------------------------------------------------------------------- archive

    def archive(self, request: Request) -> Answer:
        try:
            return self.unpacked(request)
        except Refused as refused:
            answer = self.archive_refusal(refused)
            answer.close = request.body.broken
            return answer

    def archive_refusal(self, refused: Refused) -> Answer:
        shape = {"status": "error", "uploaded": 0, "failed": 1, "bytes": 0, "prefix": "", "failures": [refused.text]}
        return self.json(refused.status, shape, refused.headers)

    def unpacked(self, request: Request) -> Answer:
        owner = self.authenticate(request)
        boundary = self.boundary(request)
        path, name, data = b"", None, b""
        for part in self.parts(request.body, boundary, lambda name, filename: None):
            if part.name == "path":
                path = part.content
            elif part.name == "archive":
                name, data = part.filename, part.content
        members = self.members(self.decompressed(self.suffix(name), data))
        self.check_members(members)
        keyed = [(self.storage_key(path, member), content) for member, content in members]
        for key, _ in keyed:
            self.permit(owner, key, path)
        for key, content in keyed:
            with self.locks.holding(key, self.settings.lock_wait):
                self.commit(key, content, self.member_type(name or b"", key), owner)
        return self.json(200, self.archive_shape(path.decode("utf-8"), [content for _, content in keyed]))

    def check_members(self, members: list[tuple[bytes, bytes]]) -> None:
        if not members:
            raise Refused(400, "No regular file in the archive")

    def archive_shape(self, prefix: str, contents: list[bytes]) -> dict[str, object]:
        size = sum(map(len, contents))
        return {"status": "ok", "uploaded": len(contents), "failed": 0, "bytes": size, "prefix": prefix, "failures": []}

    def member_type(self, archive: bytes, key: str) -> str:
        return self.type_of(key)

    def suffix(self, name: Optional[bytes]) -> str:
        if not name:
            raise Refused(400, "No filename provided")
        match = re.search(rb"\.(tar|tar\.gz|tgz|tar\.xz|txz|tar\.zst|tzst)$", name)
        if match is None:
            raise Refused(400, "Unknown suffix")
        return match[1].decode()

    def decompressed(self, suffix: str, data: bytes) -> bytes:
        limit = self.unpacked_limit()
        try:
            if suffix in ("tar.gz", "tgz"):
                unzip = zlib.decompressobj(31)
                out, whole = unzip.decompress(data, limit + 1), unzip.eof
            elif suffix in ("tar.xz", "txz"):
                unxz = lzma.LZMADecompressor()
                out, whole = unxz.decompress(data, limit + 1), unxz.eof
            elif suffix in ("tar.zst", "tzst"):
                out, whole = self.zstd(data), True
            else:
                return data
        except (zlib.error, lzma.LZMAError):
            raise Refused(400, "Not a compressed archive") from None
        if len(out) > limit:
            raise Refused(413, "Too large unpacked")
        self.check_whole(whole)
        return out

    def check_whole(self, whole: bool) -> None:
        if not whole:
            raise Refused(400, "The archive is cut short")

    def unpacked_limit(self) -> int:
        return self.settings.member_limit * 4

    def zstd(self, data: bytes) -> bytes:
        """Frames of raw blocks (RFC 8878 3.1.1): as much of zstd as can be shown without a library."""
        if data[:6] != struct.pack("<IBB", 0xFD2FB528, 0, 0x58):
            raise Refused(400, "Not a zstd frame of raw blocks")
        out, at, last = b"", 6, 0
        while not last:
            head = int.from_bytes(data[at : at + 3], "little")
            last, kind, size = head & 1, head >> 1 & 3, head >> 3
            if kind or at + 3 + size > len(data):
                raise Refused(400, "Damaged zstd frame")
            out += data[at + 3 : at + 3 + size]
            at += 3 + size
        return out

    def members(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Names and contents of the regular files. Raises Refused for anything that is not a whole, harmless tar."""
        found: list[tuple[bytes, bytes]] = []
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errorlevel=2) as archive:
                for info in archive:
                    if self.skipped(info):
                        continue
                    self.check_member(info)
                    self.check_count(len(found))
                    file = archive.extractfile(info)
                    found.append((info.name.encode("utf-8", "surrogateescape"), file.read() if file else b""))
                self.check_end(data, archive.offset)
        except (tarfile.TarError, EOFError):
            raise Refused(400, "Not a whole tar archive") from None
        return found

    def check_count(self, found: int) -> None:
        if found >= self.settings.files_limit:
            raise Refused(413, "Too many files")

    def skipped(self, info: tarfile.TarInfo) -> bool:
        return info.isdir()

    def check_member(self, info: tarfile.TarInfo) -> None:
        self.check_member_kind(info)
        self.check_member_name(info.name)
        self.check_member_size(info.size)

    def check_member_kind(self, info: tarfile.TarInfo) -> None:
        if not info.isreg():
            raise Refused(400, "A member is no regular file")

    def check_member_name(self, name: str) -> None:
        if name.startswith("/") or ".." in name.split("/"):
            raise Refused(400, "A member leads out of the archive")

    def check_member_size(self, size: int) -> None:
        if size > self.settings.member_limit:
            raise Refused(413, "A member is too large")

    def check_end(self, data: bytes, end: int) -> None:
        """tarfile ends silently at damage: the two zero blocks must really be there."""
        if data[end - 512 : end + 512] != bytes(1024) and data[end : end + 1024] != bytes(1024):
            raise Refused(400, "The archive has no end")

    # ----------------------------------------------------------------------------------------------- downloads

    def key_of(self, path: str) -> str:
        """The key of a download; what no key can be is simply not found."""
        raw = self.decoded(path)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(404, "Not Found") from None
        key = self.collapsed(text)
        if re.search(r"[\x00-\x1f\x7f]", key) or ".." in key.split("/") or self.private(key):
            raise Refused(404, "Not Found")
        return key

    def collapsed(self, text: str) -> str:
        trailing = "/" if text.endswith("/") else ""
        return "/".join(segment for segment in text.split("/") if segment not in ("", ".")) + trailing

    def private(self, key: str) -> bool:
        return key.split("/", maxsplit=1)[0] == ".metadata"

    def download(self, request: Request) -> Answer:
        key = self.key_of(request.path)
        self.await_upload(key)
        stored = self.look_up(key)
        if stored is None:
            return self.missing(key)
        if self.challenged(request) and not self.fallback(request):
            return self.challenge_page()
        return self.served(request, key, stored)

    def await_upload(self, key: str) -> None:
        if not self.locks.wait_free(key, self.settings.lock_wait):
            raise Refused(408, "Timeout waiting for upload")

    def look_up(self, key: str) -> Optional[Stored]:
        with self.guard:
            return self.objects.get(key)

    def missing(self, key: str) -> Answer:
        return self.text(404, f"Not Found: {key}")

    def served(self, request: Request, key: str, stored: Stored) -> Answer:
        answer = super().served(request, key, stored)
        if self.challenged(request) and answer.status in (200, 206):
            answer.headers.append(("X-Accel-Limit-Rate", str(self.settings.fallback_rate)))
        return answer

    def object_headers(self, key: str, stored: Stored) -> Headers:
        return [
            ("Content-Type", stored.kind),
            ("Content-Disposition", self.disposition(key.rpartition("/")[2])),
            ("Accept-Ranges", "bytes"),
            ("ETag", stored.etag),
            ("Last-Modified", formatdate(stored.modified, usegmt=True)),
            ("X-Content-Type-Options", "nosniff"),
        ]

    def disposition(self, name: str) -> str:
        safe = self.safe_name(name).encode().decode("latin-1")
        return f'attachment; filename="{safe}"{self.extended_name(name)}'

    def safe_name(self, name: str) -> str:
        return re.sub(r'[\x00-\x1f\x7f"\\]', "_", name)

    def extended_name(self, name: str) -> str:
        return "" if name.isascii() else f"; filename*=UTF-8''{quote(name, safe='')}"

    # ---------------------------------------------------------------------------------------- status, list, metrics

    def banner(self, request: Request) -> Answer:
        return self.text(200, "KernelCI Storage Server")

    def robots(self, request: Request) -> Answer:
        return self.text(200, "User-agent: *\nDisallow: /")

    def favicon(self, request: Request) -> Answer:
        return self.text(301, "Moved", [("Location", "https://kernelci.org/favicon.ico")])

    def listing(self, request: Request) -> Answer:
        with self.guard:
            keys = self.listed_keys()
        prefix = parse_qs(request.query, errors="surrogateescape").get("prefix", [""])[0]
        lines = self.in_order([key for key in keys if key.startswith(prefix)])
        body = "".join(f"{key}\n" for key in lines).encode()
        return Answer(200, body, [("Content-Type", self.listing_type())])

    def listing_type(self) -> str:
        return "text/plain; charset=utf-8"

    def listed_keys(self) -> list[str]:
        return list(self.objects)

    def in_order(self, keys: list[str]) -> list[str]:
        return sorted(keys, key=str.encode)

    def metrics_text(self) -> str:
        labels = 'hostname="reference",diskname="memory",mount_point="/"'
        free, total = self.space()
        return (
            "# HELP storage_free_space Free bytes\n# TYPE storage_free_space gauge\n"
            f"storage_free_space{{{labels}}} {free}\n"
            "# HELP storage_total_space All bytes\n# TYPE storage_total_space gauge\n"
            f"storage_total_space{{{labels}}} {total}\n" + self.cache_metric()
        )

    def space(self) -> tuple[int, int]:
        return 1 << 34, 1 << 36

    def cache_metric(self) -> str:
        return f'# TYPE storage_files_cached gauge\nstorage_files_cached{{hostname="reference"}} {len(self.objects)}\n'


def main() -> None:
    """Serves until it is killed; prints the port."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--journal")
    parser.add_argument("--secret", default=Settings.secret)
    arguments = parser.parse_args()
    server = Reference(Settings(journal=arguments.journal, secret=arguments.secret))
    print(server.start(arguments.port), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
