"""Robustness in the words of this protocol: RB-10, RB-11. What is shared stands in web/test_connections.py."""

from __future__ import annotations

from conformance.core import expect
from conformance.core.registry import clause
from conformance.core.wire import Response
from conformance.kernelci.client import Client, field, file


@clause("RB-10", "head.no-injection")
def test_no_injection(kci: Client) -> None:
    """CR LF in every place that comes back: key, path of a 404, content type."""
    evil = "a\r\nX-Injected: yes"
    kci.stored(kci.key("plain.txt"), b"x", Content_Type_Upstream="text/x-plain")
    answers: list[Response] = [
        kci.get("/" + kci.key("x%0d%0aX-Injected:%20yes")),
        kci.get("/favicon.ico?%0d%0aX-Injected:%20y"),
    ]
    for name in (f"{evil}.txt", "b\nX-Injected: yes", "c\rX-Injected: yes"):
        sent = kci.post(field("path", f"{kci.folder}/{name}"), file("inner.txt", b"x"))
        expect.status(sent, 400, context=f"path {name!r}")
        answers.append(sent)
    quoted = kci.post(field("path", kci.folder), file('q\\"\\r\\nX-Injected: yes', b"x"))
    answers.append(quoted)
    answers += [kci.download(line) for line in kci.listed_if_any() if line.startswith(kci.folder)]
    for response in answers:
        expect.no_header(response, "X-Injected", expect.describe(response))
    expect.equal(expect.media_type(kci.download(kci.key("plain.txt")))[0], "text/x-plain", "the type of the twin")


@clause("RB-11", "error.no-leak")
def test_no_leak(kci: Client) -> None:
    """The text of many errors, and of one that needs a disk."""
    kci.stored(kci.key("a/file"), b"x")
    answers = [
        kci.get("/" + kci.key("missing")),
        kci.get("/%00"),
        kci.get("/" + "x" * 300),
        kci.upload(kci.key("a/file/below"), b"x"),
        kci.upload(kci.key("a"), b"x"),
        kci.post(field("path", kci.folder)),
        kci.request(
            "POST", "/v1/file", [kci.authorised(), ("Content-Type", "multipart/form-data; boundary=\xe9")], b"x"
        ),
        kci.get("/v1/checkauth", Authorization="Bearer \xff.\xff.\xff"),
    ]
    for response in answers:
        expect.that(400 <= response.status < 500, "a refusal (4xx)", expect.describe(response))
        for leak in ("Traceback", 'File "', "Errno", "/home/", "/var/", "/tmp/", "/srv/", "/root/"):
            expect.that(leak not in response.text, f"no {leak!r}", response.text[:200])
