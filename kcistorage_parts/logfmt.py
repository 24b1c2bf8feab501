"""Log lines in logfmt (LG-1): `ts=… event=word name="text" name=number …`.

Every text is quoted in ASCII, so that nothing a client sends can end a line, start another or move a terminal's cursor.
"""

from __future__ import annotations

import contextlib
import json.encoder
import os
import re
import threading
import time
from collections import deque
from typing import Callable, Union

# The head of a JWT begins with `{"`; no dot is asked for, as looking for one takes time by the square of the length.
JSON_WEB_TOKEN = re.compile(r"eyJ[\w.%-]{20,}")

quoted: Callable[[str], str] = json.encoder.encode_basestring_ascii  # C; Measured: 0.1 us, json.dumps takes 1.5 us


Text = Union[str, Callable[[], str]]
MAX_LINES = 20_000  # kept for a log that is stuck; the oldest are lost first


class Log:
    """Lines for one file descriptor; any thread may write. A log that cannot be written never stops a request.

    Whole lines go out in one write(2): those of several threads and processes never mix in a file that is opened to
    append, and up to 4 KiB (PIPE_BUF) not in a pipe either. With a `delay` in seconds a thread of the log's own writes
    what has come by then, so that no request waits for a slow log; `flush` before the process ends. Measured: on 16
    connections that gains a tenth, since each write(2) hands the GIL around.
    """

    def __init__(self, descriptor: int, verbose: bool = False, delay: float = 0.0) -> None:
        self.descriptor, self.verbose, self._delay = descriptor, verbose, delay
        self._lines: deque[tuple[int, Text]] = deque(maxlen=MAX_LINES)  # with nanoseconds since the epoch
        self._some = threading.Event()  # set while there are lines that nobody has begun to write
        self._writing = threading.Lock()  # held for one write(2): lines keep their order
        if delay:
            threading.Thread(target=self._write_behind, name="log", daemon=True).start()
        self._second = (-1, "")  # the last second, and how it is written

    def event(self, word: str, **values: object) -> None:
        """A line `ts=… event=word name="text" name=number …`."""
        pairs = [f" {name}={value if isinstance(value, int) else quoted(str(value))}" for name, value in values.items()]
        self.write(f"event={word}{''.join(pairs)}")

    def debug(self, word: str, **values: object) -> None:
        if self.verbose:
            self.event(word, **values)

    def write(self, text: Text) -> None:
        """`text` is ASCII and already quoted, or a function that makes it: later, in the thread that writes.

        Measured: a line takes 4 us when many are made in a row, and 11 us between the system calls of a request.
        """
        self._lines.append((time.time_ns(), text))
        if not self._delay:
            self.flush()
        elif not self._some.is_set():
            self._some.set()

    def _line(self, moment: int, text: Text) -> str:
        now, nanos = divmod(moment, 1_000_000_000)
        second, stamp = self._second
        if now != second:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            self._second = now, stamp
        if not isinstance(text, str):
            text = text()
        if "eyJ" in text:  # a token in a place where it does not belong, such as a query
            text = JSON_WEB_TOKEN.sub("[token]", text)
        return f"ts={stamp}.{nanos // 1_000_000:03}Z {text}\n"

    def flush(self) -> None:
        """Writes what is there."""
        with self._writing:
            lines = [self._line(*self._lines.popleft()) for _ in range(len(self._lines))]
            with contextlib.suppress(OSError):  # a full disk or a closed pipe: serving goes on without a log
                os.write(self.descriptor, "".join(lines).encode("ascii"))

    def _write_behind(self) -> None:
        while self._some.wait():
            time.sleep(self._delay)
            self._some.clear()
            self.flush()
