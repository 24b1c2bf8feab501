"""Metrics: what the server tells Prometheus (MT-1).

The counts live in plain dicts under one lock, and become metric families only when somebody asks. `answered` is called
once a request, so it has to be cheap. Measured: 0.8 µs, where five prometheus-client metrics, each with a lock of its
own, take 3.6 µs (Python 3.9: 2 µs and 8 µs). Space on disk, cached files and connections are asked for at the scrape.

    storage_free_space, storage_total_space    hostname, diskname, mount_point    bytes
    storage_files_cached                       hostname
    kcistorage_requests_total                  method, status
    kcistorage_errors_total                    reason
    kcistorage_received_bytes_total, kcistorage_sent_bytes_total                  bytes of bodies in, of answers out
    kcistorage_request_seconds                                                    histogram
    kcistorage_lock_wait_seconds                                                  summary
    kcistorage_cache_total                     state
    kcistorage_backend_seconds                 operation                          summary
    kcistorage_connections, kcistorage_build_info, process_*
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from threading import Lock
from typing import NamedTuple, Optional

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

# RFC 9110 9 and RFC 5789: whatever else a client makes up is counted as "other", so that it cannot make up series.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})

# Seconds; from an answer out of memory to an upload of gigabytes, and the 30 s for which a lock is waited.
BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0, 120.0)
_BUCKET_NAMES = (*(str(bound) for bound in BUCKETS), "+Inf")


# ---- File systems


class FileSystem(NamedTuple):
    """A file system, as `df` would show it; sizes in bytes, `free` for us and not for root."""

    device: str
    mount_point: str
    free: int
    total: int


def _mounts() -> dict[str, str]:
    """Mount point -> device, containers' overlays too. Of several mounts on one point the last is the visible one."""
    try:
        import psutil  # not above: it is compiled, and a server in one file (`make pyz`) has to do without

        return {mount.mountpoint: mount.device for mount in psutil.disk_partitions(all=True)}
    except (ImportError, OSError):  # or a sandbox without /proc: its disks are to be reported all the same
        return {}


def _mount_point(path: str, mounts: Mapping[str, str]) -> Optional[str]:
    """The nearest mount point at or above this path."""
    path = os.path.realpath(path)
    while path not in mounts:
        if path == os.path.dirname(path):
            return None
        path = os.path.dirname(path)
    return path


def file_systems(paths: Mapping[str, str]) -> Iterator[FileSystem]:
    """The file systems on which these paths (label -> path) lie, each once.

    A path that cannot be asked is left out. Where the system does not tell its mounts, label and path stand in.
    """
    mounts = _mounts()
    seen: set[object] = set()
    for label, path in paths.items():
        try:
            number, usage = os.stat(path).st_dev, shutil.disk_usage(path)
        except OSError:
            continue
        mount_point = _mount_point(path, mounts)
        device = label if mount_point is None else mounts[mount_point]
        same = {number, mount_point or path}  # a file system may be mounted twice, or number its subvolumes (btrfs)
        if seen.isdisjoint(same):
            yield FileSystem(device, mount_point or path, usage.free, usage.total)
        seen |= same


# ---- Counts


class _Span:
    """How often something took how long."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


class Metrics(Collector):
    """The counts of one server. Any thread may call any method; every instance has a registry of its own."""

    # The text format that every Prometheus since 0.4 reads, and what generate_latest writes unless asked otherwise.
    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(
        self,
        disks: Mapping[str, str],
        version: str,
        files_cached: Callable[[], int],
        connections: Callable[[], int],
    ) -> None:
        """`disks`: label -> a path on the file system to report. The callables are asked at each scrape."""
        self._disks, self._version = dict(disks), version
        self._files_cached, self._connections = files_cached, connections
        self.tell: Optional[Callable[[str, int, float], None]] = None  # of each answer: method, status, seconds
        self._hostname = socket.gethostname()
        self._lock = Lock()  # guards all that follows, and is held for no longer than a few additions
        self._requests: dict[tuple[str, int], int] = defaultdict(int)
        self._errors: dict[str, int] = defaultdict(int)
        self._received = self._sent = 0
        self._durations = [0] * len(_BUCKET_NAMES)
        self._duration_seconds = 0.0
        self._lock_waits = _Span()
        self._states: dict[str, int] = defaultdict(int)
        self._backend: dict[str, _Span] = defaultdict(_Span)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def answered(
        self, method: str, status: int, reason: str, received: int, sent: int, seconds: float, state: str = ""
    ) -> None:
        """A request came to its end.

        `received` and `sent` are the bytes of its body that were read and of its answer; `reason` is empty if all went
        well, else one of the documented words; `state` of an object that was found is `cached` or `uncached`.
        """
        counted_method = method if method in METHODS else "other"
        bucket = bisect_left(BUCKETS, seconds)
        with self._lock:
            self._requests[counted_method, status] += 1
            if reason:
                self._errors[reason] += 1
            if state:
                self._states[state] += 1
            self._received += received
            self._sent += sent
            self._durations[bucket] += 1
            self._duration_seconds += seconds
        if self.tell is not None:
            self.tell(method, status, seconds)

    def lock_waited(self, seconds: float) -> None:
        """A request waited for an upload to the same key (UP-9, DL-6), whether or not it got its turn."""
        with self._lock:
            self._lock_waits.add(seconds)

    def backend(self, operation: str, seconds: float) -> None:
        """The storage behind a driver was asked for something."""
        with self._lock:
            self._backend[operation].add(seconds)

    def text(self) -> bytes:
        """The exposition, of type CONTENT_TYPE."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        yield from self._gauges()
        with self._lock:
            counts = list(self._counts())
        yield from counts

    def _gauges(self) -> Iterator[Metric]:
        labels = ("hostname", "diskname", "mount_point")
        free = GaugeMetricFamily("storage_free_space", "Bytes that can still be stored", labels=labels)
        total = GaugeMetricFamily("storage_total_space", "Bytes that the file system holds", labels=labels)
        for disk in file_systems(self._disks):
            free.add_metric((self._hostname, disk.device, disk.mount_point), disk.free)
            total.add_metric((self._hostname, disk.device, disk.mount_point), disk.total)
        cached = GaugeMetricFamily("storage_files_cached", "Files in the cache", labels=("hostname",))
        cached.add_metric((self._hostname,), self._files_cached())
        yield from (free, total, cached)
        yield GaugeMetricFamily("kcistorage_connections", "Open connections", value=self._connections())
        build = GaugeMetricFamily("kcistorage_build_info", "What is running", labels=("version", "python"))
        build.add_metric((self._version, platform.python_version()), 1)
        yield build

    def _counts(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("kcistorage_requests", "Requests answered", labels=("method", "status"))
        for (method, status), count in self._requests.items():
            requests.add_metric((method, str(status)), count)
        errors = CounterMetricFamily("kcistorage_errors", "Requests refused or failed", labels=("reason",))
        for reason, count in self._errors.items():
            errors.add_metric((reason,), count)
        cache = CounterMetricFamily("kcistorage_cache", "Objects sent, by where they were found", labels=("state",))
        for state, count in self._states.items():
            cache.add_metric((state,), count)
        backend = SummaryMetricFamily("kcistorage_backend_seconds", "Time in the storage", labels=("operation",))
        for operation, span in self._backend.items():
            backend.add_metric((operation,), span.count, span.seconds)
        yield from (requests, errors, cache, backend)
        yield CounterMetricFamily("kcistorage_received_bytes", "Bytes of request bodies", value=self._received)
        yield CounterMetricFamily("kcistorage_sent_bytes", "Bytes of answers", value=self._sent)
        yield HistogramMetricFamily(
            "kcistorage_request_seconds",
            "Time from a request's head to the end of its answer",
            buckets=list(zip(_BUCKET_NAMES, accumulate(self._durations))),
            sum_value=self._duration_seconds,
        )
        yield SummaryMetricFamily(
            "kcistorage_lock_wait_seconds",
            "Time spent waiting for an upload to the same key",
            count_value=self._lock_waits.count,
            sum_value=self._lock_waits.seconds,
        )
