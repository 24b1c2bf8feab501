"""The Stor protocol in the self-test."""

from __future__ import annotations

import uuid
from pathlib import Path

from conformance.core.plugin import Options
from conformance.core.wire import Target
from conformance.selftest.house import Examples, House
from conformance.selftest.stor.reference import Reference, Settings
from conformance.selftest.web.server import WebServer
from conformance.stor import SUITE


def _storages(folder: Path) -> tuple[Path, ...]:
    return (folder / "one", folder / "two")


def _made(kind: type[WebServer], folder: Path, _durable: bool) -> WebServer:
    for storage in _storages(folder):
        storage.mkdir(exist_ok=True)
    return kind(Settings(storages=_storages(folder)))


def _told(port: int, folder: Path) -> Options:
    return Options(
        target=Target("http", "127.0.0.1", port),
        secrets={"basic": Settings.credentials},
        storages=tuple(map(str, _storages(folder))),
        profile="full",
        namespace=f"selftest-{uuid.uuid4().hex[:8]}",
        seed=1,
        examples=20,
        retry=False,
    )


HOUSE = House(
    suite=SUITE,
    reference=Reference,
    made=_made,
    told=_told,
    banner="This is Stor",
    smoke=(
        "status.banner",
        "status.ok",
        "object.public",
        "object.etag",
        "name.missing",
        "post.created",
        "post.stored",
        "order.credentials-second",
        "range.closed",
        "connection.keep-alive",
    ),
    apart=("atomic.survives-restart",),
    slow=("DL-08b", "RB-06", "SO-04i", "SO-03i", "SO-04c", "DL-08d", "SO-03n", "SO-07f", "SO-04k", "SO-04f"),
    examples=Examples(
        fault="so_08a_another_banner",
        check="status.banner",
        secret_fault="so_03e_only_basic",
        secret_check="auth.scheme",
        secret_select=("auth.*", "order.*"),
        curled=(
            "dl_05c_suffix_refused",
            "dl_04a_if_match_ignored",
            "so_03k_length_required",
            "rb_04_host_unchecked",
            "so_02d_not_found",
            "so_08a_another_banner",
        ),
    ),
)
