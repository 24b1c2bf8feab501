"""Tools and libraries that a test needs beside Python: without one the test is skipped, where everybody sees it.

With CI=true in the environment a missing one is a failure: there a skipped test would be one that nobody runs.
"""

from __future__ import annotations

import importlib
import os
import shutil
from typing import Any, NoReturn

import pytest


def _absent(what: str) -> NoReturn:
    text = f"{what} is not at hand"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


def needs(tool: str) -> str:
    """The path of an executable, such as `curl`."""
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin") or _absent(tool)  # Debian: nginx


def needs_library(name: str) -> Any:
    """An importable module, such as `aiohttp`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return _absent(f"the Python library {name}")
