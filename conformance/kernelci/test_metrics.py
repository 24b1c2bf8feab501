"""Metrics: MT-1."""

from __future__ import annotations

from conformance.core import expect, prometheus
from conformance.core.registry import clause
from conformance.kernelci.client import Client


def _samples(kci: Client) -> list[prometheus.Sample]:
    return prometheus.samples(expect.status(kci.get("/metrics"), 200).text)


@clause("MT-01b", "metrics.space", writes=False)
def test_space(kci: Client) -> None:
    """The two gauges that dashboards are built on."""
    samples = _samples(kci)
    found: dict[str, float] = {}
    for name in ("storage_free_space", "storage_total_space"):
        of_name = [sample for sample in samples if sample.name == name]
        expect.that(bool(of_name), name, "none")
        for sample in of_name:
            labels = {label for label in ("hostname", "diskname", "mount_point") if sample.labels.get(label)}
            expect.equal(len(labels), 3, f"labels hostname, diskname, mount_point of {name}, not empty")
        found[name] = of_name[0].value
    free, total = found["storage_free_space"], found["storage_total_space"]
    expect.that(0 <= free <= total and total >= 1 << 20, "0 <= free <= total, in bytes", f"{free:g} of {total:g}")


@clause("MT-01c", "metrics.files-cached", writes=False)
def test_files_cached(kci: Client) -> None:
    """How many files are in the cache."""
    found = [sample for sample in _samples(kci) if sample.name == "storage_files_cached"]
    expect.that(
        bool(found) and all("hostname" in sample.labels for sample in found), "storage_files_cached{hostname}", found
    )
    expect.that(all(sample.value >= 0 for sample in found), "a number of files", found)
