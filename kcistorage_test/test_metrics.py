"""Metrics: MT-1."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Optional

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kcistorage_parts.metrics import BUCKETS, METHODS, FileSystem, Metrics, file_systems

PROPERTY = settings(deadline=None, max_examples=50)
HOST = socket.gethostname()


def fresh(**disks: str) -> Metrics:
    return Metrics(disks, "1.2.3", lambda: 7, lambda: 3)


Labels = tuple[tuple[str, str], ...]


def scrape(metrics: Metrics) -> dict[tuple[str, Labels], float]:
    """(name, labels) -> value, as Prometheus reads it; no series may come twice."""
    found: dict[tuple[str, Labels], float] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            series = (sample.name, tuple(sorted(sample.labels.items())))
            assert series not in found
            found[series] = sample.value
    return found


def value(metrics: Metrics, name: str, **labels: str) -> Optional[float]:
    return scrape(metrics).get((name, tuple(sorted(labels.items()))))


# ---- Counts


def test_a_new_server_has_counted_nothing() -> None:
    nothing = fresh()
    assert value(nothing, "kcistorage_received_bytes_total") == 0
    assert value(nothing, "kcistorage_request_seconds_count") == 0
    assert value(nothing, "kcistorage_lock_wait_seconds_count") == 0
    assert not [series for series in scrape(nothing) if series[0] == "kcistorage_requests_total"]


def test_answers() -> None:
    """MT-1: requests, errors by reason, bytes in and out."""
    metrics = fresh()
    metrics.answered("GET", 200, "", 0, 1000, 0.0005)
    metrics.answered("GET", 200, "", 0, 24, 0.001)
    metrics.answered("POST", 403, "prefix-denied", 512, 40, 0.2)
    metrics.answered("POST", 507, "no-space", 4 << 30, 40, 300)
    assert value(metrics, "kcistorage_requests_total", method="GET", status="200") == 2
    assert value(metrics, "kcistorage_requests_total", method="POST", status="403") == 1
    assert value(metrics, "kcistorage_errors_total", reason="prefix-denied") == 1
    assert value(metrics, "kcistorage_errors_total", reason="no-space") == 1
    assert value(metrics, "kcistorage_errors_total", reason="") is None
    assert value(metrics, "kcistorage_received_bytes_total") == 512 + (4 << 30)
    assert value(metrics, "kcistorage_sent_bytes_total") == 1104
    assert value(metrics, "kcistorage_request_seconds_count") == 4
    assert value(metrics, "kcistorage_request_seconds_sum") == pytest.approx(300.2015)
    assert [value(metrics, "kcistorage_request_seconds_bucket", le=le) for le in ("0.001", "0.1", "0.5", "+Inf")] == [
        2, 2, 3, 4,
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["", "get", "BREW", "x" * 1000, 'GET"\n', "PROPFIND"])
def test_methods_that_a_client_made_up(method: str) -> None:
    metrics = fresh()
    metrics.answered(method, 501, "method-unknown", 0, 0, 0.0)
    assert value(metrics, "kcistorage_requests_total", method="other", status="501") == 1


def test_known_methods() -> None:
    metrics = fresh()
    for method in METHODS:
        metrics.answered(method, 200, "", 0, 0, 0.0)
    counted = {dict(labels)["method"] for name, labels in scrape(metrics) if name == "kcistorage_requests_total"}
    assert counted == METHODS


def test_waits_cache_and_backend() -> None:
    """MT-1: lock waits, cache hits, backend time."""
    metrics = fresh()
    metrics.lock_waited(0.25)
    metrics.lock_waited(30.0)
    metrics.answered("GET", 200, "", 0, 0, 0.0, "cached")
    metrics.answered("GET", 200, "", 0, 0, 0.0, "cached")
    metrics.answered("GET", 200, "", 0, 0, 0.0, "uncached")
    metrics.backend("open", 0.5)
    metrics.backend("create", 2.0)
    metrics.backend("create", 4.0)
    assert value(metrics, "kcistorage_lock_wait_seconds_count") == 2
    assert value(metrics, "kcistorage_lock_wait_seconds_sum") == 30.25
    assert value(metrics, "kcistorage_cache_total", state="cached") == 2
    assert value(metrics, "kcistorage_cache_total", state="uncached") == 1
    assert value(metrics, "kcistorage_backend_seconds_count", operation="create") == 2
    assert value(metrics, "kcistorage_backend_seconds_sum", operation="create") == 6.0
    assert value(metrics, "kcistorage_backend_seconds_count", operation="open") == 1


ticks = st.tuples(
    st.sampled_from(["GET", "HEAD", "POST", "BREW"]),
    st.sampled_from([200, 206, 404]),
    st.sampled_from(["", "key-missing"]),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.sampled_from(BUCKETS) | st.floats(0, 500),
)


@PROPERTY
@given(st.lists(ticks, max_size=20))
@example([("GET", 200, "", 0, 0, bound) for bound in BUCKETS])
def test_nothing_is_lost(calls: list[tuple[str, int, str, int, int, float]]) -> None:
    """Invariant: the exposition is the sum of what was counted; buckets are cumulative, their bounds included."""
    metrics = fresh()
    for call in calls:
        metrics.answered(*call)
    seen = scrape(metrics)
    expected = Counter((method if method in METHODS else "other", str(status)) for method, status, *_ in calls)
    assert {
        (dict(labels)["method"], dict(labels)["status"]): count
        for (name, labels), count in seen.items()
        if name == "kcistorage_requests_total"
    } == expected
    assert seen["kcistorage_received_bytes_total", ()] == sum(call[3] for call in calls)
    assert seen["kcistorage_sent_bytes_total", ()] == sum(call[4] for call in calls)
    for bound in BUCKETS:
        within = seen["kcistorage_request_seconds_bucket", (("le", str(bound)),)]
        assert within == sum(call[5] <= bound for call in calls)
    assert seen["kcistorage_request_seconds_bucket", (("le", "+Inf"),)] == len(calls)


def test_threads() -> None:
    """Any thread may count, and a scrape may come at any time."""
    metrics = fresh()
    at_once = threading.Barrier(5)

    def count() -> None:
        at_once.wait()
        for number in range(2000):
            metrics.answered("GET", 200 + number % 50, "key-missing", 1, 2, 0.01)
            metrics.backend(f"operation-{number % 30}", 1.0)
            metrics.answered("GET", 200, "", 0, 0, 0.0, "cached")
            metrics.lock_waited(1.0)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    at_once.wait()
    while any(thread.is_alive() for thread in threads):
        scraped = scrape(metrics)
        assert scraped["kcistorage_sent_bytes_total", ()] == 2 * scraped["kcistorage_received_bytes_total", ()]
    assert value(metrics, "kcistorage_errors_total", reason="key-missing") == 8000
    assert value(metrics, "kcistorage_requests_total", method="GET", status="249") == 160
    assert value(metrics, "kcistorage_cache_total", state="cached") == 8000
    assert value(metrics, "kcistorage_lock_wait_seconds_sum") == 8000


def test_servers_in_one_process_count_for_themselves() -> None:
    one, other = fresh(), fresh()
    one.answered("GET", 200, "", 0, 10, 0.1)
    assert (value(one, "kcistorage_sent_bytes_total"), value(other, "kcistorage_sent_bytes_total")) == (10, 0)


# ---- Gauges


def test_gauges_are_asked_at_each_scrape() -> None:
    files, connections = iter([10, 20]), iter([1, 2])
    metrics = Metrics({}, "1.2.3", lambda: next(files), lambda: next(connections))
    first, second = scrape(metrics), scrape(metrics)
    assert [seen["storage_files_cached", (("hostname", HOST),)] for seen in (first, second)] == [10, 20]
    assert [seen["kcistorage_connections", ()] for seen in (first, second)] == [1, 2]


def test_what_is_running() -> None:
    metrics = fresh()
    ((labels, one),) = [
        (dict(labels), one) for (name, labels), one in scrape(metrics).items() if name == "kcistorage_build_info"
    ]
    assert one == 1
    assert labels["version"] == "1.2.3"
    assert re.fullmatch(r"3\.\d+\.\d+.*", labels["python"])


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the library knows the process from /proc alone")
def test_the_process() -> None:
    seen = scrape(fresh())
    assert seen["process_resident_memory_bytes", ()] > 1 << 20
    assert seen["process_open_fds", ()] > 2
    assert seen["process_cpu_seconds_total", ()] > 0


def test_exposition_format() -> None:
    """Prometheus text format 0.0.4: HELP and TYPE before the samples, the seed's names without a prefix."""
    text = fresh(storage="/").text().decode()
    assert Metrics.CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    for name, kind in {
        "storage_free_space": "gauge",
        "storage_total_space": "gauge",
        "storage_files_cached": "gauge",
        "kcistorage_requests_total": "counter",
        "kcistorage_errors_total": "counter",
        "kcistorage_received_bytes_total": "counter",
        "kcistorage_sent_bytes_total": "counter",
        "kcistorage_cache_total": "counter",
        "kcistorage_request_seconds": "histogram",
        "kcistorage_lock_wait_seconds": "summary",
        "kcistorage_backend_seconds": "summary",
        "kcistorage_connections": "gauge",
        "kcistorage_build_info": "gauge",
    }.items():
        assert re.search(rf"^# HELP {name} \S.*\n# TYPE {name} {kind}$", text, re.MULTILINE), name
    assert text.endswith("\n")
    assert "_created" not in text


# ---- Disks


def test_space(tmp_path: Path) -> None:
    """MT-1: labels hostname, diskname, mount_point; what `df` shows."""
    metrics = fresh(storage=str(tmp_path))
    seen = {name: (dict(labels), size) for (name, labels), size in scrape(metrics).items() if name.endswith("_space")}
    labels, free = seen["storage_free_space"]
    total_labels, total = seen["storage_total_space"]
    assert labels == total_labels
    assert set(labels) == {"hostname", "diskname", "mount_point"}
    assert labels["hostname"] == HOST
    assert os.path.ismount(labels["mount_point"])
    assert labels["diskname"] in {mount.device for mount in psutil.disk_partitions(all=True)}
    assert total == psutil.disk_usage(str(tmp_path)).total
    assert 0 < free <= total


def test_two_paths_on_one_file_system(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert len(list(file_systems({"files": str(tmp_path), "storage": str(tmp_path / "a"), "here": "/"}))) <= 2
    assert len(list(file_systems({"files": str(tmp_path), "storage": str(tmp_path / "a")}))) == 1


def test_a_path_that_vanished(tmp_path: Path) -> None:
    """A disk that cannot be asked is left out; the scrape goes on."""
    gone = tmp_path / "gone"
    gone.mkdir()
    metrics = fresh(files=str(gone))
    assert [name for name, _ in scrape(metrics) if name == "storage_free_space"]
    gone.rmdir()
    assert not [name for name, _ in scrape(metrics) if name == "storage_free_space"]
    assert [each.mount_point for each in file_systems({"gone": str(gone), "root": "/"})] == ["/"]


Mounts = list[tuple[str, str]]


@pytest.mark.parametrize(
    ("mounts", "paths", "expected"),
    [
        ([("/dev/a", "/")], {"x": "/srv/x"}, [("/dev/a", "/")]),
        ([("/dev/a", "/"), ("/dev/b", "/srv")], {"x": "/srv/x"}, [("/dev/b", "/srv")]),
        ([("/dev/a", "/"), ("/dev/b", "/sr")], {"x": "/srv/x"}, [("/dev/a", "/")]),
        ([("/dev/a", "/"), ("/dev/b", "/srv"), ("/dev/c", "/srv")], {"x": "/srv"}, [("/dev/c", "/srv")]),
        ([("/dev/a", "/"), ("/dev/b", "/srv")], {"x": "/x", "y": "/srv"}, [("/dev/a", "/"), ("/dev/b", "/srv")]),
        ([("/dev/a", "/"), ("/dev/a", "/srv/same")], {"x": "/x", "y": "/srv/same"}, [("/dev/a", "/")]),
        ([("/dev/a", "/btrfs")], {"x": "/btrfs/1", "y": "/btrfs/2"}, [("/dev/a", "/btrfs")]),
        ([("/dev/a", "/elsewhere")], {"x": "/x"}, [("x", "/x")]),
        ([], {"x": "/x", "y": "/x"}, [("x", "/x")]),
    ],
)
def test_mounts(mounts: Mounts, paths: dict[str, str], expected: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file system once, named by the mount nearest to the path, or by label and path where nothing is known."""
    numbers = {"/x": 1, "/srv/same": 1, "/srv": 2, "/srv/x": 2, "/btrfs/1": 3, "/btrfs/2": 4}
    listed = [SimpleNamespace(device=device, mountpoint=mountpoint) for device, mountpoint in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **asked: listed if asked == {"all": True} else [])
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1, total=2))
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_dev=numbers[path]))
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    assert list(file_systems(paths)) == [FileSystem(device, mount_point, 1, 2) for device, mount_point in expected]


def test_a_server_in_one_file_has_no_psutil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    (disk,) = file_systems({"storage": str(tmp_path)})
    assert (disk.device, disk.mount_point) == ("storage", str(tmp_path))


def test_mounts_that_the_system_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_partitions(**_all: bool) -> None:
        raise PermissionError(13, "no /proc here")

    monkeypatch.setattr(psutil, "disk_partitions", disk_partitions)
    (disk,) = file_systems({"storage": str(tmp_path)})
    assert (disk.device, disk.mount_point) == ("storage", str(tmp_path))
    assert disk.total > 0
