"""The KernelCI protocol in the self-test."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

from conformance.core.plugin import Options
from conformance.core.wire import Target
from conformance.kernelci import SUITE, tokens
from conformance.selftest.house import Examples, House
from conformance.selftest.kernelci.reference import Reference, Settings
from conformance.selftest.web.server import WebServer

LIMITED, WRITER = "limited@example.org", "writer@example.org"

# Short, so that what takes half a minute elsewhere takes a second here; the suite is told, as an implementer would.
TIMINGS = {"lock_wait": 1.5, "idle": 2.0}
LIMITS = {"upload": 4 << 30, "member": 1 << 20, "files": 1000}
SETTINGS = Settings(
    users={LIMITED: ["/allowed"]},
    lock_wait=TIMINGS["lock_wait"],
    idle=TIMINGS["idle"],
    member_limit=LIMITS["member"],
    files_limit=LIMITS["files"],
)


def _made(kind: type[WebServer], folder: Path, durable: bool) -> WebServer:
    return kind(replace(SETTINGS, journal=str(folder / "journal") if durable else None))


def _told(port: int, _folder: Path) -> Options:
    return Options(
        target=Target("http", "127.0.0.1", port),
        secrets={
            "token": tokens.mint(SETTINGS.secret, {"email": WRITER}),
            "limited": tokens.mint(SETTINGS.secret, {"email": LIMITED}),
            "secret": SETTINGS.secret,
        },
        inputs={"limited_prefix": "allowed", "blocked_address": "192.0.2.7", "challenge_agent": "challenged-browser"},
        profile="full",
        namespace=f"selftest-{uuid.uuid4().hex[:8]}",
        timings=TIMINGS,
        limits=LIMITS,
        seed=1,
        examples=40,
        retry=False,
    )


HOUSE = House(
    suite=SUITE,
    reference=Reference,
    made=_made,
    told=_told,
    banner="KernelCI Storage Server",
    smoke=(
        "status.banner",
        "upload.basic",
        "download.public",
        "range.closed",
        "missing.text",
        "connection.keep-alive",
        "list.keys",
        "checkauth.valid",
    ),
    apart=("atomic.survives-restart",),
    slow=("UP-09e", "UP-09c", "DL-06b"),
    examples=Examples(
        fault="st_03a_robots_welcome",
        check="status.robots",
        secret_fault="au_04a_nameless",
        secret_check="checkauth.valid",
        secret_select=("checkauth.*", "token.*"),
        curled=(
            "dl_05c_suffix_refused",
            "dl_04a_if_match_ignored",
            "up_05a_first_file_only",
            "rb_01_coding_wins",
            "rb_04_host_unchecked",
            "st_03a_robots_welcome",
        ),
        optional=("archive", "archive.*"),
    ),
)
