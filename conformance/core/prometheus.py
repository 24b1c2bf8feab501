"""The text format of Prometheus, version 0.0.4, read strictly."""

from __future__ import annotations

import re
from typing import NamedTuple

from conformance.core import expect

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


def samples(text: str) -> list[Sample]:
    """The samples of a text, in its order. Raises Violation for what is no line of the format."""
    found: list[Sample] = []
    for line in text.split("\n"):
        if not line or (line.startswith("#") and (_COMMENT.fullmatch(line) or not re.match("# (HELP|TYPE)", line))):
            continue
        match = _SAMPLE.fullmatch(line)
        if match is None:
            raise expect.Violation("a line of Prometheus text", repr(line[:120]))
        labels = dict(re.findall(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\.)*)"', match[2] or ""))
        found.append(Sample(match[1], labels, float(match[3])))
    return found
