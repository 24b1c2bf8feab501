"""Metrics: MT-1."""

from __future__ import annotations

import re
from typing import NamedTuple

from conformance.core import expect
from conformance.core.registry import clause
from conformance.core.wire import Response
from conformance.kernelci.client import Client

_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:" + _LABEL + r"(?:,|(?=\})))*)\})?"
    r" +([+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+|Inf)|NaN)( +-?[0-9]+)?"
)
_COMMENT = re.compile(
    r"# (?:HELP [a-zA-Z_:][a-zA-Z0-9_:]*( .*)?|TYPE [a-zA-Z_:][a-zA-Z0-9_:]* (counter|gauge|histogram|summary|untyped))"
)


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


def _metrics(kci: Client) -> Response:
    return expect.status(kci.get("/metrics"), 200)


def _samples(response: Response) -> list[Sample]:
    found: list[Sample] = []
    for line in response.text.split("\n"):
        if not line or (line.startswith("#") and (_COMMENT.fullmatch(line) or not re.match("# (HELP|TYPE)", line))):
            continue
        match = _SAMPLE.fullmatch(line)
        if match is None:
            raise expect.Violation("a line of Prometheus text", repr(line[:120]))
        labels = dict(re.findall(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\.)*)"', match[2] or ""))
        found.append(Sample(match[1], labels, float(match[3])))
    return found


@clause("MT-01a", "metrics.format", writes=False)
def test_format(kci: Client) -> None:
    """Every line can be read, the last one ends, and no series is there twice."""
    response = _metrics(kci)
    expect.equal(expect.media_type(response)[0], "text/plain", "the type of the metrics")
    expect.that(response.body.endswith(b"\n"), "a line end at the end", repr(response.body[-20:]))
    samples = _samples(response)
    series = {(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples}
    expect.that(len(samples) == len(series) > 0, "each series once", f"{len(samples)} lines of {len(series)} series")


@clause("MT-01b", "metrics.space", writes=False)
def test_space(kci: Client) -> None:
    """The two gauges that dashboards are built on."""
    samples = _samples(_metrics(kci))
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
    found = [sample for sample in _samples(_metrics(kci)) if sample.name == "storage_files_cached"]
    expect.that(
        bool(found) and all("hostname" in sample.labels for sample in found), "storage_files_cached{hostname}", found
    )
    expect.that(all(sample.value >= 0 for sample in found), "a number of files", found)
