"""Status: SO-8."""

from __future__ import annotations

from conformance.core import expect
from conformance.core.registry import clause
from conformance.stor.client import NEVER, Client


@clause("SO-08a", "status.banner", writes=False)
def test_banner(stor: Client) -> None:
    """GET / names the server, and nothing else does."""
    response = expect.status(stor.get("/"), 200)
    expect.that(response.text.startswith("This is Stor"), "This is Stor …", response.text[:80])
    expect.equal(expect.media_type(response)[0].split("/")[0], "text", "the type of the banner")
    expect.status(stor.get(NEVER), 404, context="the banner is nowhere else")


@clause("SO-08b", "status.ok", writes=False)
def test_ok(stor: Client) -> None:
    """For a monitor: the word, and a status that means it."""
    expect.text(expect.status(stor.get("/status"), 200), "OK")
    expect.status(stor.get(NEVER), 404, context="what is missing")
