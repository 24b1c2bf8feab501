"""Log lines in logfmt (LG-1): `ts=… event=word name="text" name=number …`.

Every text is quoted in ASCII, so that nothing a client sends can end a line, start another or move a terminal's cursor.
"""

from __future__ import annotations

import contextlib
import json.encoder
import os
import re
import time
from typing import Callable

JSON_WEB_TOKEN = re.compile(r"eyJ[\w-]*(?:\.|%2[eE])[\w.%-]*")

quoted: Callable[[str], str] = json.encoder.encode_basestring_ascii  # C; Measured: 0.1 us, json.dumps takes 1.5 us


class Log:
    """Lines for one file descriptor; any thread may write. A log that cannot be written never stops a request."""

    def __init__(self, descriptor: int, verbose: bool = False) -> None:
        self.descriptor, self.verbose = descriptor, verbose
        self._second = (0, "")

    def event(self, word: str, **values: object) -> None:
        """A line `ts=… event=word name="text" name=number …`."""
        self.write(
            f"event={word} " + " ".join(f"{n}={v if isinstance(v, int) else quoted(str(v))}" for n, v in values.items())
        )

    def debug(self, word: str, **values: object) -> None:
        if self.verbose:
            self.event(word, **values)

    def write(self, text: str) -> None:
        """`text` is ASCII and already quoted. One write(2) a line: lines of several threads and processes never mix."""
        now = time.time()
        second, stamp = self._second
        if int(now) != second:
            second, stamp = int(now), time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            self._second = second, stamp
        if "eyJ" in text:  # a token in a place where it does not belong, such as a query
            text = JSON_WEB_TOKEN.sub("[token]", text)
        with contextlib.suppress(OSError):  # a full disk or a closed pipe: serving goes on without a log
            os.write(self.descriptor, f"ts={stamp}.{int(now * 1000) % 1000:03}Z {text}\n".encode("ascii"))
