"""The log (LG-1): what a line looks like, and what can never be in one."""

from __future__ import annotations

import datetime
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kcistorage_parts import tokens
from kcistorage_parts.logfmt import MAX_LINES, Log, quoted

Lines = Callable[[], list[str]]
STAMP = re.compile(r"ts=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ")
ANY_TEXT = st.text(st.characters())  # lone surrogates too: what a client sends may hold them
A_TOKEN = tokens.mint("lab@example.org", "a secret of thirty-two bytes, or more", 0)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    number = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield number
    os.close(number)


@pytest.fixture
def log(descriptor: int) -> Log:
    return Log(descriptor)


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """The lines so far, without their time stamps."""

    def read() -> list[str]:
        text = (tmp_path / "log").read_bytes().decode("ascii")
        assert text.endswith("\n")
        found = text.split("\n")[:-1]
        assert all(STAMP.match(line) for line in found)
        return [STAMP.sub("", line, count=1) for line in found]

    return read


# ---- The shape of a line


def test_an_event_is_a_word_and_its_values(log: Log, lines: Lines) -> None:
    log.event("start", version="0.1", port=3000, ratio=0.5, name=None)
    log.event("stop")
    assert lines() == ['event=start version="0.1" port=3000 ratio="0.5" name="None"', "event=stop"]


def test_debug_lines_only_where_they_were_asked_for(descriptor: int, lines: Lines) -> None:
    Log(descriptor).debug("disconnect", ip="192.0.2.1")
    Log(descriptor, verbose=True).debug("disconnect", ip="192.0.2.2")
    assert lines() == ['event=disconnect ip="192.0.2.2"']


def test_the_time_stamp_is_now_in_utc(log: Log, tmp_path: Path) -> None:
    """RFC 3339, in milliseconds."""
    before = time.time_ns() // 1_000_000
    log.event("now")
    after = time.time_ns() // 1_000_000
    stamp = STAMP.match((tmp_path / "log").read_text())
    assert stamp
    when = datetime.datetime.strptime(stamp[1], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.timezone.utc)
    assert before <= round(when.timestamp() * 1000) <= after


@pytest.mark.parametrize(
    ("nanos", "stamp"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_790_000_000_000_000_000, "2026-09-21T14:13:20.000Z"),
        (1_790_000_000_999_999_999, "2026-09-21T14:13:20.999Z"),  # as a float this is the next second
        (1_790_000_001_000_999_999, "2026-09-21T14:13:21.000Z"),
    ],
)
def test_a_time_stamp_is_cut_not_rounded(
    nanos: int, stamp: str, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kcistorage_parts.logfmt.time.time_ns", lambda: nanos)
    log.event("now")
    assert (tmp_path / "log").read_text() == f"ts={stamp} event=now\n"


def test_the_seconds_go_on(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for second in (5, 5, 6, 4):  # somebody may set the clock back
        monkeypatch.setattr("kcistorage_parts.logfmt.time.time_ns", lambda now=second: now * 1_000_000_000 + 7_000_000)
        log.event("tick")
    stamps = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert stamps == [f"ts=1970-01-01T00:00:0{second}.007Z" for second in (5, 5, 6, 4)]


# ---- No log injection (LG-1)


@given(ANY_TEXT)
def test_a_quoted_text_is_ascii_on_one_line_and_reads_back(text: str) -> None:
    """Invariant: any logfmt or JSON reader gets the very text back, and no terminal sees a control character."""
    value = quoted(text)
    assert value.isascii()
    assert not re.search(r"[\x00-\x1f]", value)
    assert json.loads(value) == text
    assert re.fullmatch(r'"(?:[^"\\]|\\.)*"', value)


@given(texts=st.lists(ANY_TEXT, max_size=4))
def test_whatever_the_values_an_event_is_one_printable_line(texts: list[str]) -> None:
    """Invariant: one event, one line of printable ASCII, from which all values can be read back."""
    reader, writer = os.pipe()
    try:
        Log(writer).event("test", **{f"v{number}": text for number, text in enumerate(texts)})
        line = os.read(reader, 65_536).decode("ascii")
    finally:
        os.close(reader)
        os.close(writer)
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    values = re.findall(r' v\d=("(?:[^"\\]|\\.)*")', line)
    assert [json.loads(value) for value in values] == texts


def test_a_forged_line_stays_inside_its_quotes(log: Log, lines: Lines) -> None:
    target = '/" status=200\nts=2026-01-01T00:00:00.000Z event=access ip="6.6.6.6'
    log.event("access", target=target, ua="\x1b[2J\x7f\u202e")
    quoted_target = r'"/\" status=200\nts=2026-01-01T00:00:00.000Z event=access ip=\"6.6.6.6"'
    assert lines() == [rf'event=access target={quoted_target} ua="\u001b[2J\u007f\u202e"']


# ---- No tokens (LG-1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"/a?token={A_TOKEN}", "/a?token=[token]"),
        (f"/a?token={A_TOKEN}&x=1", "/a?token=[token]&x=1"),
        (f"/a?{A_TOKEN.replace('.', '%2E')}/b", "/a?[token]/b"),
        (f"/a?x=%3D{A_TOKEN}", "/a?x=%3D[token]"),  # the D of %3D is no part of a word
        (f"Bearer {A_TOKEN} {A_TOKEN}", "Bearer [token] [token]"),
        (f"/a?token={A_TOKEN.partition('.')[0]}", "/a?token=[token]"),  # cut off, as a limit on the target may do
        ("/monkeyJungle.txt", "/monkeyJungle.txt"),
    ],
)
def test_a_token_where_it_does_not_belong_is_blotted_out(text: str, shown: str, log: Log, lines: Lines) -> None:
    log.event("access", target=text)
    assert lines() == [f'event=access target="{shown}"']


def test_looking_for_tokens_takes_no_time(log: Log, lines: Lines) -> None:
    """Measured: a pattern that asks for the dot takes 10 s for this line, and all other threads wait."""
    began = time.thread_time()
    log.event("access", ua="eyJ" * 20_000)
    log.event("access", ua="eyJ." * 15_000)
    log.event("access", ua="eyJ!" * 15_000)
    assert time.thread_time() - began < 0.5
    assert lines()[:2] == ['event=access ua="[token]"'] * 2


# ---- Who writes, and where to


def test_lines_of_many_threads_do_not_mix(descriptor: int, lines: Lines) -> None:
    logs = [Log(descriptor) for _ in range(4)]
    texts = [f"{number}" * 3_000 for number in range(4)]
    threads = [
        threading.Thread(target=lambda log=log, text=text: [log.event("line", text=text) for _ in range(50)])
        for log, text in zip(logs, texts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lines()) == [f'event=line text="{text}"' for text in texts for _ in range(50)]


def test_a_closed_pipe_does_not_stop_the_server() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        Log(writer).event("nobody-reads")
    finally:
        os.close(writer)


def test_a_full_disk_does_not_stop_the_server() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space"):
            os.write(full, b"x")
        Log(full).event("no-room")
    finally:
        os.close(full)


def test_a_log_that_is_gone_does_not_stop_the_server() -> None:
    Log(-1).event("closed")


# ---- Writing behind


def test_lines_written_behind_come_soon_whole_and_in_order() -> None:
    reading, writing = os.pipe()
    log = Log(writing, delay=0.01)
    for number in range(100):
        log.event("tick", number=number)
    received = b""
    while received.count(b"\n") < 100:
        received += os.read(reading, 65_536)
    numbers = [line.rpartition("=")[2] for line in received.decode().splitlines()]
    assert numbers == [str(number) for number in range(100)]
    os.close(reading)
    os.close(writing)


def test_a_log_that_is_stuck_holds_nobody_up_and_keeps_the_newest_lines() -> None:
    """LG-1: the pipe is full, its reader asleep; requests go on, and memory stays bounded."""
    reading, writing = os.pipe()
    log = Log(writing, delay=0.001)
    for number in range(2 * MAX_LINES):
        log.event("tick", number=number)
    kept = list(log._lines)
    assert len(kept) == MAX_LINES
    assert str(kept[-1][1]).endswith(f"number={2 * MAX_LINES - 1}")
    os.close(reading)  # the thread that was stuck gets EPIPE: no reason to fail
    log.flush()
    assert not log._lines
    os.close(writing)
