"""The listing: LS-1."""

from __future__ import annotations

from conformance.core import expect
from conformance.core.registry import clause
from conformance.kernelci.client import Client

NEEDS = ("list",)
NAMES = ("b.txt", "a/z.txt", "a-b.txt", "Z.txt", "a.txt", "gr\u00fcn.txt", "two words.txt", "\U0001f427", "\ufb01")


def _stored(kci: Client) -> list[str]:
    return [kci.stored(kci.key(name), b"x") for name in NAMES]


@clause("LS-01a", "list.keys", needs=NEEDS)
def test_keys(kci: Client) -> None:
    """Every key that was stored, once, as it is; overwriting adds none."""
    keys = _stored(kci)
    kci.stored(keys[0], b"again")
    mine = [line for line in kci.listed() if line.startswith(kci.folder + "/")]
    expect.equal(sorted(mine), sorted(keys), "the keys of this check in the list")


@clause("LS-01b", "list.sorted", needs=NEEDS)
def test_sorted(kci: Client) -> None:
    """By bytes, so that two lists can be compared line by line."""
    _stored(kci)
    lines = [line.encode("utf-8", "surrogateescape") for line in kci.listed()]
    pair = next((pair for pair in zip(lines, lines[1:]) if pair[0] >= pair[1]), None)
    expect.that(pair is None and len(lines) >= len(NAMES), "keys in the order of their bytes", pair)


@clause("LS-01c", "list.type", writes=False, needs=NEEDS)
def test_type(kci: Client) -> None:
    """Text in UTF-8."""
    response = expect.status(kci.get("/v1/list"), 200)
    expect.equal(expect.media_type(response), ("text/plain", "charset=utf-8"), "Content-Type")


@clause("LS-01d", "list.prefix", needs=NEEDS)
def test_prefix(kci: Client) -> None:
    """A plain text prefix of the key."""
    keys = _stored(kci)
    for prefix in (kci.folder + "/", kci.key("a"), kci.key("gr\u00fcn"), kci.key("none")):
        allowed = sorted(key for key in keys if key.startswith(prefix))
        expect.equal(sorted(kci.listed(prefix)), allowed, f"the list of {prefix!r}")


@clause("LS-01e", "list.private", needs=NEEDS)
def test_private(kci: Client) -> None:
    """While an upload is under way, and after it."""
    before = set(kci.listed())
    key = kci.key("under-way.bin")
    with kci.holding(key) as held:
        during = set(kci.listed())
        added = sorted(line for line in during - before if line.startswith(kci.folder) or "under-way" in line)
        expect.equal(added, [], "new lines while the upload is under way")
        expect.status(held.open(), 200, context="the upload")
    after = kci.listed()
    expect.that(key in after, key, "not listed after the upload")
    private = [line for line in after if line.startswith((".metadata", "cache/")) or "/.metadata/" in line]
    expect.equal(private[:3], [], "private files in the list")
