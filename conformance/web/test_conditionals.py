"""Preconditions: DL-4."""

from __future__ import annotations

from datetime import datetime, timedelta

from conformance.core import expect, oracle
from conformance.core.registry import shared
from conformance.core.strategies import conditions, explore
from conformance.core.wire import Response
from conformance.web.client import Client, Sample

FIXDATE = "%a, %d %b %Y %H:%M:%S GMT"


def _time(sample: Sample) -> datetime:
    found = oracle.http_date(sample.modified)
    if found is None:
        raise expect.Violation("a date", sample.modified, "Last-Modified")
    return found


def _dates(sample: Sample) -> dict[str, str]:
    modified, day = _time(sample), timedelta(days=1)
    moments = {
        "before": modified - day,
        "just before": modified - timedelta(seconds=1),
        "same": modified,
        "after": modified + day,
    }
    return {name: moment.strftime(FIXDATE) for name, moment in moments.items()}


def _judge(response: Response, sample: Sample, headers: dict[str, str]) -> None:
    allowed = oracle.conditional(headers, sample.etag, _time(sample))
    expect.status(response, *sorted(allowed), context=str(headers))
    if response.status == 200:
        expect.body(response, sample.data, str(headers))
    elif response.status == 304:
        expect.equal(expect.header(response, "ETag"), sample.etag, f"ETag of a 304, {headers}")


def _asked(web: Client, sample: Sample, *cases: dict[str, str]) -> None:
    for headers in cases:
        _judge(web.request("GET", sample.path, list(headers.items())), sample, headers)


@shared("condition.if-match", writes=False)
def test_if_match(web: Client) -> None:
    """The object it should be, and another."""
    sample = web.sample()
    values = (sample.etag, '"other"', f'"other", {sample.etag}', "*", f"W/{sample.etag}", '"a", "b"')
    _asked(web, sample, *({"if-match": value} for value in values))
    missing = web.get(sample.path + ".missing", If_Match="*")
    expect.status(missing, 404, 412, context="If-Match: * of a missing object")


@shared("condition.if-unmodified-since", writes=False)
def test_if_unmodified_since(web: Client) -> None:
    """Before, at and after the last change; beside If-Match it is not read."""
    sample = web.sample()
    dates = _dates(sample)
    _asked(web, sample, *({"if-unmodified-since": value} for value in dates.values()))
    _asked(web, sample, {"if-match": sample.etag, "if-unmodified-since": dates["before"]})


@shared("condition.if-none-match", writes=False)
def test_if_none_match(web: Client) -> None:
    """What a cache holds, in every form that caches send."""
    sample = web.sample()
    values = (
        sample.etag,
        f"W/{sample.etag}",
        f'"x", {sample.etag}',
        f'"x",W/{sample.etag} , "y"',
        "*",
        '"x"',
        '"x", "y"',
    )
    _asked(web, sample, *({"if-none-match": value} for value in values))


@shared("condition.if-modified-since", writes=False)
def test_if_modified_since(web: Client) -> None:
    """Before, at and after the last change; beside If-None-Match it is not read."""
    sample = web.sample()
    dates = _dates(sample)
    _asked(web, sample, *({"if-modified-since": value} for value in dates.values()))
    _asked(web, sample, {"if-none-match": '"x"', "if-modified-since": dates["after"]})
    _asked(web, sample, {"if-none-match": sample.etag, "if-modified-since": dates["before"]})


@shared("condition.dates", writes=False)
def test_dates(web: Client) -> None:
    """The same moment in three forms, and what is no moment."""
    sample = web.sample()
    for moment in (_time(sample), _time(sample) - timedelta(days=1)):
        for form in (FIXDATE, "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"):
            _asked(web, sample, {"if-modified-since": moment.strftime(form)})
    for value in ("yesterday", "0", "", "2030-01-01T00:00:00Z", "Mon, 32 Jan 2024 00:00:00 GMT"):
        _asked(web, sample, {"if-modified-since": value}, {"if-unmodified-since": value})


@shared("condition.not-modified", writes=False)
def test_not_modified(web: Client) -> None:
    """A 304 on a connection that goes on: what it announces must not be awaited."""
    sample = web.sample()
    connection = web.connection()
    connection.send(web.head("GET", sample.path, [("If-None-Match", sample.etag)]))
    response = expect.status(connection.receive(), 304)
    expect.equal(expect.header(response, "ETag"), sample.etag, "ETag of the 304")
    expect.equal(expect.header(response, "Last-Modified"), sample.modified, "Last-Modified of the 304")
    length = response.get("Content-Length")
    expect.that(length in (None, str(len(sample.data))), f"no Content-Length, or {len(sample.data)}", length)
    if not response.closes:
        connection.send(web.head("GET", sample.path))
        expect.body(expect.status(connection.receive(), 200, context="the next request"), sample.data)


@shared("condition.any", writes=False)
def test_any(web: Client) -> None:
    """Invariant: whatever the mix, the status is one the oracle allows."""
    sample = web.sample()

    def agrees(headers: dict[str, str]) -> None:
        _asked(web, sample, headers)

    options = web.run.options
    cases = conditions(sample.etag, _dates(sample))
    explore(cases, agrees, examples=options.examples * 2, with_seed=options.seed)
