"""What every GET route and every object has: ST-1, ST-2, DL-1, DL-2, MT-1."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from conformance.core import expect, oracle, prometheus
from conformance.core.registry import shared
from conformance.core.verdict import Untestable
from conformance.core.wire import Response
from conformance.web.client import Client

SERVED = (
    "Content-Type",
    "Content-Disposition",
    "Accept-Ranges",
    "ETag",
    "Last-Modified",
    "X-Content-Type-Options",
    "Cache-Control",
    "Repr-Digest",
)


@shared("status.head", writes=False)
def test_head(web: Client) -> None:
    """HEAD has the status of GET on every GET route and leaves the connection in order."""
    expect.status(web.get(web.missing()), 404, context="GET of a missing object")
    connection = web.connection()
    for route in web.routes:
        allowed = web.get(route).status
        connection.send(web.head("HEAD", route))
        response = connection.receive("HEAD")
        expect.status(response, allowed, context=f"HEAD {route}")
        if response.closes:
            connection = web.connection()
    connection.send(web.head("GET", "/"))
    expect.status(connection.receive(), 200, context="GET / after the HEADs: none of them had content")


def _wrong_methods(web: Client) -> list[Response]:
    return [web.request(method, path, body=b"" if method == "POST" else None) for method, path in web.wrong_methods]


@shared("method.wrong", writes=False)
def test_wrong_method(web: Client) -> None:
    """A route asked with another method."""
    for response in _wrong_methods(web):
        expect.status(response, 405)


@shared("method.allow", writes=False)
def test_allow(web: Client) -> None:
    """Every 405 has an Allow that does not hold the method that was refused."""
    refused = [response for response in _wrong_methods(web) if response.status == 405]
    if not refused:
        raise Untestable("no wrong method is answered 405")
    for response in refused:
        methods = [word.strip() for word in expect.header(response, "Allow").split(",")]
        expect.that(all(re.fullmatch(r"[A-Z]+", word) for word in methods), "a list of methods", methods)


@shared("method.unknown", writes=False)
def test_unknown_method(web: Client) -> None:
    """A method no route has."""
    expect.status(web.request("BREW", "/"), 501)


# -------------------------------------------------------------------------------------------------------- objects


@shared("download.head", writes=False)
def test_object_head(web: Client) -> None:
    """All that GET says of the object, without it."""
    sample = web.sample()
    response = expect.status(web.request("HEAD", sample.path), 200, context="HEAD")
    expect.equal(expect.header(response, "Content-Length"), str(len(sample.data)), "Content-Length of HEAD")
    for name in SERVED:
        expect.equal(response.all(name), sample.response.all(name), f"{name} of HEAD")
    expect.status(web.request("HEAD", sample.path + ".missing"), 404, context="HEAD of a missing object")


@shared("download.accept-ranges", writes=False)
def test_accept_ranges(web: Client) -> None:
    """Clients look for it before they resume."""
    expect.equal(expect.header(web.sample().response, "Accept-Ranges"), "bytes", "Accept-Ranges")


@shared("download.last-modified", writes=False)
def test_last_modified(web: Client) -> None:
    """When it was stored, by the server's clock."""
    sample = web.sample()
    modified = expect.header(sample.response, "Last-Modified")
    form = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
    expect.that(re.fullmatch(form, modified) is not None, "an IMF-fixdate", modified)
    found = oracle.http_date(modified)
    server_now = oracle.http_date(sample.response.get("Date") or "") or datetime.now(timezone.utc) + timedelta(hours=1)
    expect.that(found is not None and found <= server_now + timedelta(seconds=1), "no time in the future", modified)
    again = expect.header(web.get(sample.path), "Last-Modified")
    expect.equal(again, modified, "Last-Modified of the next GET")


# -------------------------------------------------------------------------------------------------------- metrics


@shared("metrics.format", writes=False)
def test_format(web: Client) -> None:
    """Every line can be read, the last one ends, and no series is there twice."""
    response = expect.status(web.get("/metrics"), 200)
    expect.equal(expect.media_type(response)[0], "text/plain", "the type of the metrics")
    expect.that(response.body.endswith(b"\n"), "a line end at the end", repr(response.body[-20:]))
    samples = prometheus.samples(response.text)
    series = {(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples}
    expect.that(len(samples) == len(series) > 0, "each series once", f"{len(samples)} lines of {len(series)} series")
