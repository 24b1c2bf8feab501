"""STOR.md says what is true: its tables compared with the code."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from functools import partial
from pathlib import Path

import stor
from kcistorage_parts.replicas import Scrubbed
from kcistorage_test.test_docs import literal, name_of, reasons_of_source, words
from kcistorage_test.test_docs import table as table_of

TOP = Path(stor.__file__).resolve().parent
PAGE = (TOP / "STOR.md").read_text(encoding="utf-8")
SOURCES = [TOP / "stor.py", *(TOP / "kcistorage_parts" / f"{part}.py" for part in ("replicas", "bucket", "locations"))]


table = partial(table_of, page=PAGE)


def test_each_key_is_told_with_its_default() -> None:
    """SO-10"""
    told = {words(cells[0])[0]: cells[1] for cells in table("key")}
    fields = {field.name: field for field in dataclasses.fields(stor.Config)}
    assert set(told) == set(fields)
    for name, cell in told.items():
        default = fields[name].default
        if words(cell):
            assert json.loads(words(cell)[0]) == (list(default) if isinstance(default, tuple) else default), name


def test_each_reason_is_told_with_its_status() -> None:
    """SO-2, SO-3, SO-6 to SO-8"""
    told = {words(cells[0])[0]: int(cells[1]) for cells in table("reason")}
    own = {reason.word: reason.status for reason in reasons_of_source(TOP / "stor.py")}
    spine = {reason.word: reason.status for reason in reasons_of_source(TOP / "kcistorage.py")}
    assert own.items() <= told.items()
    assert {word: status for word, status in told.items() if word not in own}.items() <= spine.items()
    assert len(own) > 5, "this test lost sight of them"


def test_each_event_is_told() -> None:
    """SO-7"""
    calls = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    known = {literal(call.args[0], str) for call in calls if name_of(call.func) in ("event", "_tell") and call.args}
    told = {word for cells in table("event in the log") for word in words(cells[0])}
    assert known - {None} <= told
    assert told - known == {"access", "start", "stop", "error"}, "those of kcistorage"


def test_the_findings_of_a_scrub_are_told() -> None:
    for word in re.findall(r"`([a-z]+)`", Scrubbed.__doc__ or ""):
        assert word == "ok" or f"`{word}`" in PAGE


def test_the_code_is_told() -> None:
    told = {word for cells in table("file") for word in words(cells[0])}
    assert all((TOP / name).is_file() for name in told)
    assert told >= {path.relative_to(TOP).as_posix() for path in SOURCES}
