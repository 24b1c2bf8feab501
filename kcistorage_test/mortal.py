"""Servers that kill themselves at a chosen moment: a program for test_faults.py.

A line on its standard input starts one: a JSON list of the number of the call to die at (0: never), the log file, the
storage folder, and the server's arguments. Counted are the system calls that change something in the storage folder;
SIGKILL comes just before the n-th. On standard output it tells the server's process id and, after one more line, the
wait status: until then a dead server is a zombie, and its id nobody else's.

The server is forked from here, so that it starts in milliseconds: there are some dozens of moments to die at.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from typing import Any, Callable, NoReturn

import kcistorage

CHANGES = ("open", "write", "utime", "fsync", "ftruncate", "mkdir", "rmdir", "rename", "unlink")


def is_inside(storage: str, about: object) -> bool:
    """Whether a path or an open file is in the storage folder."""
    path = os.readlink(f"/proc/self/fd/{about}") if isinstance(about, int) else os.fsdecode(about)  # type: ignore[arg-type]
    return path.startswith(f"{storage}/")


def make_mortal(name: str, storage: str, is_last: Callable[[], bool]) -> None:
    """Replaces `os.name` by what asks `is_last` before each change, and then does not come back."""
    call = getattr(os, name)

    def mortal(about: Any, *arguments: Any, **options: Any) -> Any:
        changes = name != "open" or arguments[0] & os.O_CREAT
        if changes and is_inside(storage, about) and is_last():
            os.kill(os.getpid(), signal.SIGKILL)
        return call(about, *arguments, **options)

    setattr(os, name, mortal)


def serve(number: int, log: str, storage: str, arguments: list[str]) -> NoReturn:
    """Never returns: it is a forked process."""
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        count = itertools.count(1)
        for name in CHANGES:
            make_mortal(name, storage, lambda: next(count) == number)
        status = kcistorage.main(arguments)
    finally:
        os._exit(status)


def main() -> None:
    for line in sys.stdin:
        number, log, storage, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            serve(number, log, storage, arguments)
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
