"""Names: SO-2, and what must not come back from them: RB-10, RB-11."""

from __future__ import annotations

from conformance.core import expect
from conformance.core.registry import clause
from conformance.stor.client import Client, path_of, sha256

LETTERS = "abcdef"


def _no_names(good: str) -> tuple[str, ...]:
    """Each one mutation away from a name that is stored."""
    swapped = next(char for char in good if char in LETTERS)
    return (
        good[:-1],
        good + "0",
        good.replace(swapped, "g", 1),
        good[:32],
        f"{good}.dat",
        f"{good}/x",
        f"x/{good}",
        f"sha256:{good}",
        f"{good[:-1]}%00",
        f"{good}%0a",
        f"{good[:-2]}%C3%A9",
        "no-sha256",
    )


@clause("SO-02a", "name.missing", writes=False)
def test_missing(stor: Client) -> None:
    """Says which one."""
    data = stor.fresh("never")
    expect.text(expect.status(stor.get(path_of(data)), 404), f"File '{sha256(data)}' not found")


@clause("SO-02b", "name.missing.head", writes=False)
def test_missing_head(stor: Client) -> None:
    """HEAD is how clients ask whether they must upload; the connection stays in order."""
    sample = stor.sample()
    connection = stor.connection()
    connection.send(stor.head("HEAD", path_of(stor.fresh("never"))))
    response = expect.status(connection.receive("HEAD"), 404)
    if not response.closes:
        connection.send(stor.head("GET", sample.path))
        expect.body(expect.status(connection.receive(), 200, context="the next request"), sample.data)
    expect.status(stor.request("HEAD", sample.path), 200, context="HEAD of what is stored")


@clause("SO-02c", "name.invalid", writes=False)
def test_invalid(stor: Client) -> None:
    """Too short, too long, another alphabet, something before and behind."""
    sample = stor.sample()
    for name in _no_names(sample.path[1:]):
        expect.status(stor.get(f"/{name}"), 404, context=f"GET /{name}")
        expect.status(stor.request("HEAD", f"/{name}"), 404, context=f"HEAD /{name}")


@clause("SO-02d", "name.invalid.post")
def test_invalid_post(stor: Client) -> None:
    """The content would fit the good name."""
    data = stor.fresh("object")
    good = sha256(data)
    for name in (good[:-1], good + "0", "g" + good[1:], "no-sha256"):
        response = expect.status(stor.post(f"/{name}", data), 412, context=f"POST /{name}")
        expect.text(response, f"Given hash '{name}' isn't sha256", f"POST /{name}")
    for name in (f"{good}%0a", f"{good[:-2]}%C3%A9", f"x{good}"):
        expect.status(stor.post(f"/{name}", data), 412, context=f"POST /{name}")
    stor.has_not(data, "after the refused POSTs")
    expect.status(stor.store(data), 201, context="the good name")


@clause("SO-02e", "name.case")
def test_case(stor: Client) -> None:
    """Stored by one spelling, there under all."""
    for number, spell in enumerate((str.upper, str.lower, str.swapcase, str.title)):
        data = stor.fresh(f"object {number}")
        spelled = "/" + spell(sha256(data))
        expect.status(stor.post(spelled, data), 201, context=f"POST {spelled}")
        for other in (str.upper, str.lower, str.title):
            path = "/" + other(sha256(data))
            expect.body(expect.status(stor.get(path), 200, context=f"GET {path}"), data)
            expect.status(stor.request("HEAD", path), 200, context=f"HEAD {path}")
            expect.status(stor.post(path, data), 200, context=f"POST {path}")


@clause("SO-02f", "name.whole")
def test_whole(stor: Client) -> None:
    """Names that share all but the last digits with one that is stored: the folders are made of the first six."""
    data = stor.fresh("object")
    name = sha256(data)
    stor.stored(data)
    stor.has(data)
    other = "0" if name[-1] != "0" else "1"
    for neighbour in (name[:-1] + other, name[:6] + "0" * 58, name[:32] * 2, "0" * 58 + name[-6:]):
        expect.status(stor.get(f"/{neighbour}"), 404, context=f"GET of a neighbour of {name}")
        expect.status(stor.request("HEAD", f"/{neighbour}"), 404, context=f"HEAD of a neighbour of {name}")


# -------------------------------------------------------------------------------------------------- what comes back


@clause("RB-10", "head.no-injection")
def test_no_injection(stor: Client) -> None:
    """CR LF in a name, which the texts of 404 and 412 hold."""
    evil = "/x%0d%0aX-Injected:%20yes"
    for response in (
        stor.get(evil),
        stor.request("HEAD", evil),
        stor.post(evil, b"x"),
        stor.get("/status?%0d%0aX-Injected:%20y"),
        stor.get("/x%0aX-Injected:%20yes"),
    ):
        expect.no_header(response, "X-Injected", expect.describe(response))
    expect.status(stor.get(evil), 404, context="GET of it")
    sample = stor.sample()
    expect.body(stor.get(sample.path), sample.data)


@clause("RB-11", "error.no-leak")
def test_no_leak(stor: Client) -> None:
    """The text of every error. The lists of 200 and 201 and the text of /status name storages, as they must."""
    data = stor.fresh("object")
    answers = [
        stor.get(path_of(data)),
        stor.get("/%00"),
        stor.get("/" + "x" * 3000),
        stor.get("/../../etc/passwd"),
        stor.post(path_of(data), b"something else"),
        stor.post("/%00", data),
        stor.request("POST", path_of(data), [("Authorization", "Basic \xff\xfe")], data),
        stor.get(stor.sample().path, Range="bytes=999999999-"),
    ]
    for response in answers:
        expect.that(400 <= response.status < 500, "a refusal (4xx)", expect.describe(response))
        for leak in ("Traceback", 'File "', "Errno", "/home/", "/var/", "/tmp/", "/srv/", "/root/", "/mnt/", ".dat"):
            expect.that(leak not in response.text, f"no {leak!r}", response.text[:200])
