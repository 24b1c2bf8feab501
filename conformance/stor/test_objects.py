"""Objects: SO-1."""

from __future__ import annotations

import base64
import hashlib
import re

from conformance.core import expect
from conformance.core.registry import clause
from conformance.core.wire import Response
from conformance.stor.client import Client, path_of, sha256


def _directives(response: Response) -> set[str]:
    listed = ",".join(response.all("Cache-Control"))
    return {word.strip().lower() for word in listed.split(",") if word.strip()}


@clause("SO-01a", "object.public", writes=False)
def test_public(stor: Client) -> None:
    """No credentials, wrong ones: the same bytes."""
    path = stor.place()
    for name, headers in {"without": {}, "with wrong": {"Authorization": "Basic d3Jvbmc6d3Jvbmc="}}.items():
        response = expect.status(stor.get(path, **headers), 200, context=f"{name} credentials")
        expect.equal(path_of(response.body), path.lower(), "the SHA-256 of what came")
        expect.equal(expect.header(response, "Content-Length"), str(len(response.body)), "Content-Length")


@clause("SO-01b", "object.etag", writes=False)
def test_etag(stor: Client) -> None:
    """Known to every client before it asks."""
    sample = stor.sample()
    for path in (sample.path, sample.path.upper()):
        etag = expect.header(expect.status(stor.get(path), 200, context=f"GET {path}"), "ETag")
        expect.equal(etag, f'"{sha256(sample.data)}"', f"ETag of {path}")


@clause("SO-01c", "object.immutable", writes=False)
def test_immutable(stor: Client) -> None:
    """A year, for caches of every kind; the same on HEAD and on a part."""
    sample = stor.sample()
    answers = {
        "GET": stor.get(sample.path),
        "HEAD": stor.request("HEAD", sample.path),
        "a range": stor.get(sample.path, Range="bytes=0-9"),
    }
    for name, response in answers.items():
        expect.status(response, 200, 206, context=name)
        found = _directives(response)
        wanted = {"public", "max-age=31536000", "immutable"}
        expect.that(wanted <= found, ", ".join(sorted(wanted)), found, f"Cache-Control of {name}")
        against = found & {"no-store", "no-cache", "private", "must-revalidate"}
        expect.equal(against, set(), f"directives of {name} that say the opposite")


@clause("SO-01d", "object.repr-digest", writes=False)
def test_repr_digest(stor: Client) -> None:
    """Of the representation, and so of the whole, whatever part of it comes."""
    sample = stor.sample()
    answers = {
        "GET": stor.get(sample.path),
        "HEAD": stor.request("HEAD", sample.path),
        "a range": stor.get(sample.path, Range="bytes=0-9"),
    }
    wanted = "sha-256=:" + base64.b64encode(hashlib.sha256(sample.data).digest()).decode() + ":"
    for name, response in answers.items():
        value = expect.header(response, "Repr-Digest", name)
        members = [member.strip() for member in value.split(",")]
        expect.that(wanted in members, wanted, value, f"Repr-Digest of {name}")


@clause("SO-01e", "object.not-modified", writes=False)
def test_not_modified(stor: Client) -> None:
    """A cache that asks again must not lose what it was told."""
    sample = stor.sample()
    response = expect.status(stor.get(sample.path, If_None_Match=sample.etag), 304)
    expect.equal(_directives(response), _directives(sample.response), "Cache-Control of the 304")


@clause("SO-01f", "object.missing-is-mutable")
def test_missing_is_mutable(stor: Client) -> None:
    """Asked for a moment too early; then it is stored."""
    data = stor.fresh("late")
    sample = stor.sample()
    answers = {
        "what is missing": expect.status(stor.get(path_of(data)), 404, context="before it is stored"),
        "what is no name": stor.get("/no-sha256"),
        "a failed precondition": stor.get(sample.path, If_Match='"other"'),
        "an unsatisfiable range": stor.get(sample.path, Range="bytes=999999999-"),
        "a refusal": stor.request("POST", path_of(data), [], data),
        "/status": stor.get("/status"),
    }
    for name, response in answers.items():
        ages = [int(word[8:]) for word in _directives(response) if re.fullmatch("max-age=[0-9]+", word)]
        expect.that("immutable" not in _directives(response), "no immutable", _directives(response), name)
        expect.that(all(age <= 3600 for age in ages), "an hour at most", _directives(response), name)
    stor.stored(data)
    stor.has(data, "after it was stored")


@clause("SO-01g", "object.other-methods")
def test_other_methods(stor: Client) -> None:
    """The name is a promise that nobody can take back."""
    kept, never = stor.fresh("kept"), stor.fresh("never")
    stor.stored(kept)
    for headers in ([], [stor.authorised()]):
        for method in ("PUT", "DELETE", "PATCH"):
            for data in (kept, never):
                body = None if method == "DELETE" else data
                response = stor.request(method, path_of(data), headers, body)
                expect.that(400 <= response.status < 600, "a refusal", expect.describe(response), method)
    stor.has(kept, "after all of them")
    stor.has_not(never, "after all of them")
