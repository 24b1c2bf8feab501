#!/usr/bin/env python3
"""stor: content-addressed storage. The name of an object is the SHA-256 of its bytes; each lies on two disks or more.

The way of a request, on the server and the exchange of kcistorage.py:

    GET  /<sha>     S3 first, if there is one -> any good copy on the storages of a pair -> preconditions -> 200 206 304
    POST /<sha>     name -> credentials -> there already? -> written and hashed as it comes -> all copies synced -> 201
    GET  /status    whether all storages can be reached
    GET  /metrics   Prometheus
    GET  /          the banner

Below it: `replicas.py` keeps the copies, and restores what is missing or wrong of them; `locations.py` remembers where
objects are; `statsd.py` tells others how we are. What no clause of Stor says (ranges, conditional requests, how HTTP is
read and written) is as in kcistorage, for it is the same code.

Marks: (SO-3) is a clause of the protocol, `Upstream:` what Stor 1.5 does instead.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import dataclasses
import errno
import hashlib
import hmac
import json
import os
import re
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import kcistorage
from kcistorage import Answer, Exchange, Found, Headers, LockTable, Refused, Site, StorageServer, answer_object, plain
from kcistorage_parts import guards
from kcistorage_parts.local import SMALL_OBJECT, SmallObjects, Stored
from kcistorage_parts.locations import Locations, Shared
from kcistorage_parts.logfmt import Log, quoted
from kcistorage_parts.metrics import Metrics
from kcistorage_parts.replicas import Damaged, Good, Storages
from kcistorage_parts.settings import NOT_SHOWN, ConfigError, secret, section, wrong
from kcistorage_parts.statsd import Statsd

if TYPE_CHECKING:
    from kcistorage_parts.bucket import Bucket

BANNER = f"This is Stor {kcistorage.__version__}"
CONTENT_TYPE = "application/octet-stream"
SHA256 = re.compile("[0-9A-Fa-f]{64}")
S3_SECONDS = 5.0  # for one request: the storages have the object too
READINGS = 8  # of a small object, until a copy that is good can be read: each copy that cannot be costs one
LOCK_SECONDS = 60.0  # for another request that hashes, restores or commits the same object
BUSY: kcistorage.Refusal = (503, "object-busy", "Object is being checked, try again")
CHALLENGE = [("WWW-Authenticate", 'Basic realm="Stor", charset="UTF-8"')]


# ---------------------------------------------------------------------------------------------------------------------
# Where objects are: S3, then the storages (SO-7, SO-9)
# ---------------------------------------------------------------------------------------------------------------------


class Objects:
    """All that can be had, by sha. Any thread may call."""

    def __init__(self, storages: Storages, locations: Locations, log: Log) -> None:
        self.storages, self._locations, self._log = storages, locations, log
        self.bucket: Optional[Bucket] = None  # is asked first
        self._small = SmallObjects()

    def at_hand(self, sha: str) -> Optional[Found]:
        """A small object that was read before, all of whose copies are still what they were."""
        number = self._locations.near(sha)
        if self.bucket is not None or number is None or sha not in self._small:
            return None
        states = self.storages.are_well(number, sha)
        return next((small for state in states if (small := self._small.get(sha, state))), None)

    def open(self, sha: str, bodiless: bool = False) -> Optional[Found]:
        """The object, or None where there is none."""
        found: Optional[Found] = self.bucket.open(sha, bodiless) if self.bucket is not None else None
        return self._stored(sha) if found is None else found

    def _good(self, sha: str) -> Optional[Good]:
        try:
            found = self.storages.open(sha, self._locations.get(sha) or 0)
        except Damaged:
            self._log.event("damaged", sha=sha)
            raise Refused(500, "copies-damaged", f"File '{sha}' is damaged") from None
        if found is None:
            return None
        self._locations.put(sha, found[0])
        return found[1]

    def _stored(self, sha: str) -> Optional[Stored]:
        for _ in range(READINGS):
            good = self._good(sha)
            if good is None:
                return None
            stored = self._taken(sha, good)
            if stored is not None:
                return stored
        raise OSError(errno.EIO, "copies that are good now and then")

    def _taken(self, sha: str, good: Good) -> Optional[Stored]:
        """A large object opened, a small one read; None where the copy turns out now to be none that is good."""
        stored = Stored(good.descriptor, None, good.size, f'"{sha}"', good.modified, CONTENT_TYPE)
        if good.size > SMALL_OBJECT:
            return stored
        with contextlib.closing(stored):
            status = os.fstat(good.descriptor)
            content = self.storages.content(sha, good)
        if content is None:
            return None
        stored = stored._replace(descriptor=-1, content=content)
        self._small.put(sha, status, stored)
        return stored

    def close(self) -> None:
        """Ends what goes on in the background."""
        self.storages.close()
        self._locations.close()
        if self.bucket is not None:
            self.bucket.close()

    def read(self, sha: str, start: int, stop: int) -> bytes:
        """Some bytes of an object, from the storages; raises ConnectionError where they have it not."""
        good = self._good(sha)
        if good is None:
            raise ConnectionError("neither S3 nor a storage has the rest")
        try:
            return os.pread(good.descriptor, stop - start, start)
        finally:
            os.close(good.descriptor)


# ---------------------------------------------------------------------------------------------------------------------
# Handlers
# ---------------------------------------------------------------------------------------------------------------------


def sha_of(path: str) -> Optional[str]:
    """The name in a path, in lower case; None where it is no SHA-256 (SO-2)."""
    return path[1:].lower() if SHA256.fullmatch(path, 1) else None


@lru_cache(maxsize=4096)
def headers_of(sha: str) -> Headers:
    """What never changes (SO-1, RFC 8246, RFC 9530 3)."""
    digest = base64.b64encode(bytes.fromhex(sha)).decode()
    return (
        ("Cache-Control", "public, max-age=31536000, immutable"),
        ("Repr-Digest", f"sha-256=:{digest}:"),
        kcistorage.NOSNIFF,
    )


class Get:
    """GET /<sha> (SO-1, SO-2)."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def respond(self, exchange: Exchange) -> Answer:
        sha = sha_of(exchange.path)
        found = None if sha is None else self._objects.open(sha, exchange.method == "HEAD")
        if sha is None or found is None:
            raise Refused(404, "not-found", f"File '{exchange.path[1:]}' not found")
        return self._answer(exchange, sha, found)

    def at_once(self, exchange: Exchange) -> Optional[Answer]:
        sha = sha_of(exchange.path)
        found = None if sha is None else self._objects.at_hand(sha)
        return None if sha is None or found is None else self._answer(exchange, sha, found)

    @staticmethod
    def _answer(exchange: Exchange, sha: str, found: Found) -> Answer:
        exchange.key, exchange.state = sha, found.state
        return answer_object(exchange, found, CONTENT_TYPE, headers_of(sha))


class Credentials:
    """Who may post (SO-3): the one user of the configuration, by Basic authentication (RFC 7617)."""

    def __init__(self, user_and_password: str) -> None:
        self._expected = user_and_password.encode()

    def check(self, exchange: Exchange) -> None:
        """In a time that does not tell how much of it is right."""
        scheme, _, told = exchange.fields.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(told.strip(" "), validate=True) if scheme.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            given = b""
        if not (hmac.compare_digest(given, self._expected) and self._expected):
            raise Refused(401, "credentials-wrong", "Unauthorized", CHALLENGE)
        exchange.owner = given.partition(b":")[0].decode("utf-8", "replace")


class Post:
    """POST /<sha> (SO-3, SO-4, SO-6)."""

    def __init__(self, objects: Objects, credentials: Credentials) -> None:
        self._objects, self._credentials = objects, credentials

    def respond(self, exchange: Exchange) -> Answer:
        sha = sha_of(exchange.path)
        if sha is None:
            raise Refused(412, "name-malformed", f"Given hash '{exchange.path[1:]}' isn't sha256")
        self._credentials.check(exchange)
        exchange.key = sha
        paths = self._objects.storages.stored(sha)
        return self._told(200, paths) if paths else self._store(exchange, sha)

    def _store(self, exchange: Exchange, sha: str) -> Answer:
        """201 when all copies are on stable storage, and 200 if somebody else was faster."""
        with self._objects.storages.create(exchange.body.length or 0) as incoming:
            if exchange.body.awaits_continue and not incoming.files:  # else its content is judged first
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            while block := exchange.body.read(kcistorage.READ_BYTES):
                incoming.write(block)
            actual = incoming.sha256()
            if actual != sha:
                text = f"Content sha256 {actual} doesn't match given sha256 {sha}"
                raise Refused(412, "content-differs", text)
            created, paths = incoming.commit(sha)
        return self._told(201 if created else 200, paths)

    @staticmethod
    def _told(status: int, paths: Sequence[str]) -> Answer:
        return Answer(status, [kcistorage.JSON, kcistorage.NOSNIFF], json.dumps(paths).encode())


class Status:
    """GET /status (SO-8)."""

    def __init__(self, storages: Storages) -> None:
        self._storages = storages

    def respond(self, exchange: Exchange) -> Answer:
        away = [path for pair in self._storages.pairs for path in pair if not self._storages.is_available(path)]
        if away:  # Upstream: 500
            raise Refused(503, "storage-unavailable", f"Storage is unavailable: {', '.join(map(quoted, away))}")
        return plain(200, "OK", [("Cache-Control", "no-store")])


# ---------------------------------------------------------------------------------------------------------------------
# Configuration (SO-10): upstream's JSON, or the same keys in [stor] of config.toml
# ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Statsite:
    host: str = ""
    prefix: str = "stor"
    sample_rate: float = 1.0
    port: int = 8125


@dataclasses.dataclass(frozen=True)
class S3Credentials:
    access_key: str = ""
    secret_key: str = secret()
    host: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    storage_pairs: tuple[tuple[str, ...], ...]
    writable_pairs_regex: str = ".*"
    basic_auth: str = secret()
    require_mounts: bool = True
    verify_reads: bool = True
    s3_enabled: bool = False
    s3_credentials: S3Credentials = S3Credentials()
    s3_bucket: str = "samples"
    s3_region: str = ""
    memcached_servers: tuple[str, ...] = ()
    statsite: Statsite = Statsite()
    secret: str = secret()  # Upstream: signs the cookies of Mojolicious; here there are none
    trusted_proxies: tuple[str, ...] = guards.DEFAULT_TRUSTED_PROXIES


def check_config(config: Config) -> None:
    """What types cannot say."""
    storages = [storage for pair in config.storage_pairs for storage in pair]
    if not storages or not all(config.storage_pairs) or not all(storages):
        raise wrong("storage_pairs", config.storage_pairs, 'lists of folders, such as [["/mnt/data1", "/mnt/data2"]]')
    if len({os.path.realpath(storage) for storage in storages}) < len(storages):
        raise wrong("storage_pairs", config.storage_pairs, "each folder once")
    if config.basic_auth and not re.fullmatch("[^:\0-\x1f]+:[^\0-\x1f]+", config.basic_auth):
        raise wrong("basic_auth", NOT_SHOWN, "user:password")
    try:
        re.compile(config.writable_pairs_regex)
    except re.error as error:
        raise wrong("writable_pairs_regex", config.writable_pairs_regex, f"a regular expression ({error})") from None
    if not 0 < config.statsite.sample_rate <= 1:
        raise wrong("statsite.sample_rate", config.statsite.sample_rate, "above 0, and 1 at most")
    if not 0 < config.statsite.port < 65_536:
        raise wrong("statsite.port", config.statsite.port, "a port")
    if config.s3_enabled and not config.s3_credentials.host:
        raise wrong("s3_credentials.host", "", "the host of S3, as s3_enabled = true has it")
    kcistorage.check_networks("trusted_proxies", config.trusted_proxies)


def load_config(path: str) -> Config:
    """From a .toml its table [stor], else all of a JSON file. Raises ConfigError."""
    is_toml = path.endswith(".toml")
    table: object = kcistorage.read_table(path) if is_toml else kcistorage.read_table(path, json.load)
    expected = "an object with the keys of Stor"
    if is_toml and isinstance(table, dict):
        table, expected = table.get("stor"), "a table [stor], or CONFIG_FILE in the environment to name a JSON file"
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: expected {expected}")
    try:
        config = section(Config, table, "stor." if is_toml else "")
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config


# ---------------------------------------------------------------------------------------------------------------------
# Putting it together
# ---------------------------------------------------------------------------------------------------------------------


def build_storages(config: Config, log: Log, locks: LockTable) -> Storages:
    return Storages(
        config.storage_pairs,
        lambda sha: locks.holding(sha, LOCK_SECONDS, BUSY),
        log.event,
        writable=config.writable_pairs_regex,
        require_mounts=config.require_mounts,
        verify=config.verify_reads,
    )


def build_locations(config: Config, log: Log) -> Locations:
    if not config.memcached_servers:
        return Locations()
    names = [pair[0] for pair in config.storage_pairs]
    try:
        return Shared(config.memcached_servers, names, lambda text: log.event("memcached-failed", error=text))
    except ImportError:
        expected = "none without the extra: pip install 'kcistorage[memcached]'"
        raise wrong("memcached_servers", list(config.memcached_servers), expected) from None
    except ValueError as error:
        raise wrong("memcached_servers", list(config.memcached_servers), f"host or host:port ({error})") from None


def build_bucket(config: Config, log: Log, objects: Objects) -> Bucket:
    from kcistorage_parts.bucket import Bucket

    try:
        from kcistorage_parts.s3 import S3Backend
    except ImportError:
        raise wrong("s3_enabled", True, "false without the extra: pip install 'kcistorage[s3]'") from None
    told = config.s3_credentials
    try:
        backend = S3Backend(
            bucket=config.s3_bucket,
            endpoint=told.host,
            access_key=told.access_key,
            secret_key=told.secret_key,
            region=config.s3_region,
            timeout_seconds=S3_SECONDS,
            attempts=1,
        )
    except ValueError as error:
        raise wrong("s3_credentials", NOT_SHOWN, str(error)) from None
    return Bucket(backend, CONTENT_TYPE, objects.read, log.event)


def build_statsd(told: Statsite) -> Statsd:
    try:
        return Statsd(told.host, told.port, told.prefix, told.sample_rate)
    except OSError as error:
        raise wrong("statsite.host", told.host, f"a host that is known ({error.strerror})") from None


def build_server(config: Config, address: tuple[str, int], folder: str, log: Log) -> StorageServer:
    """The protocol as a table. `folder` may hold a certificate."""
    metrics = Metrics(
        {storage: storage for pair in config.storage_pairs for storage in pair},
        kcistorage.__version__,
        lambda: 0,
        lambda: server.connections,
    )
    locks = LockTable(metrics.lock_waited)
    storages = build_storages(config, log, locks)
    objects = Objects(storages, build_locations(config, log), log)
    if config.s3_enabled:
        objects.bucket = build_bucket(config, log, objects)
    housekeeper = kcistorage.Housekeeper(log)
    housekeeper.undertake([storages.recover], ())
    trusted = guards.Subnets(guards.networks(config.trusted_proxies))
    at_end = contextlib.ExitStack()
    at_end.callback(objects.close)
    if config.statsite.host:
        statsd = build_statsd(config.statsite)
        metrics.tell = statsd.answered
        at_end.callback(statsd.close)
    site = Site(
        gates=[],
        routes={
            "/": {"GET": kcistorage.Constant(plain(200, BANNER))},
            "/status": {"GET": Status(storages)},
            "/metrics": {"GET": kcistorage.MetricsPage(metrics)},
        },
        otherwise={"GET": Get(objects), "POST": Post(objects, Credentials(config.basic_auth))},
    )
    server = StorageServer(
        address,
        site,
        log,
        metrics,
        partial(kcistorage.identify, trusted),
        kcistorage.tls_context(folder),
        housekeeper=housekeeper,
        at_end=at_end.close,
    )
    return server


# ---------------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------------


def initialize(path: str, environment: Mapping[str, str]) -> None:
    """Writes a configuration with two pairs of folders unless there is one, and prints a post that can be pasted."""
    base = Path(path).resolve().parent / "samples"
    pairs = [[str(base / f"{number}{letter}") for letter in "ab"] for number in (1, 2)]
    config = {"storage_pairs": pairs, "require_mounts": False, "basic_auth": f"writer:{secrets.token_urlsafe(18)}"}
    if kcistorage.write_once(path, json.dumps(config, indent=2) + "\n"):
        for folder in (folder for pair in pairs for folder in pair):
            os.makedirs(folder, exist_ok=True)
    sample = Path(__file__).resolve().with_name("README.md")
    sha = hashlib.sha256(sample.read_bytes()).hexdigest()
    url = f"http://{kcistorage.reachable(*kcistorage.listen_address(environment))}/{sha}"
    user = shlex.quote(load_config(path).basic_auth)
    print("\nStore a file:")
    print(f"  curl -f -u {user} --data-binary @{shlex.quote(str(sample))} {url}")
    print(f"and get it back:\n  curl -f {url}\n", flush=True)


def scrub(config: Config) -> int:
    """Prints what is wrong, whether it was restored, and where, a line each. 1 when anything was wrong."""
    storages = build_storages(config, Log(sys.stderr.fileno()), LockTable())
    found = ((each.what, "restored" if each.restored else "lost", each.path, each.size) for each in storages.scrub())
    return kcistorage.tell_scrub("copy", "copies", found)


def parse_arguments(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stor", description="Content-addressed storage on pairs of disks.")
    told = "JSON, or a .toml with [stor]; default %(default)s; env CONFIG_FILE wins"
    parser.add_argument("--config-file", default="./config.toml", metavar="FILE", help=told)
    told = "HTTPS with its cert.pem and key.pem; default %(default)s"
    parser.add_argument("--ssl-directory", default="./ssl", metavar="DIR", help=told)
    parser.add_argument("--init", action="store_true", help="write a JSON configuration and print how to store a file")
    parser.add_argument("--scrub", action="store_true", help="read every copy, restore what is wrong; 1 if anything is")
    parser.add_argument("--verbose", action="store_true", help="debug lines in the log")
    parser.add_argument("--version", action="version", version=f"%(prog)s {kcistorage.__version__}")
    return parser.parse_args(arguments)


def serve(config: Config, options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    log = Log(sys.stdout.fileno(), options.verbose, kcistorage.LOG_DELAY)
    server = kcistorage.listening(lambda at: build_server(config, at, options.ssl_directory, log), environment)
    if not config.basic_auth:
        log.event("warning", text="there is no basic_auth: nobody can store anything")
    kcistorage.serve_until_signal(server, log, protocol="stor")
    return 0


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    path = environment.get("CONFIG_FILE") or options.config_file
    if options.init:
        initialize(path, environment)
        return 0
    config = load_config(path)
    return scrub(config) if options.scrub else serve(config, options, environment)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    options = parse_arguments(arguments)
    return kcistorage.exit_code("stor", lambda: run(options, os.environ))


if __name__ == "__main__":
    sys.exit(main())
