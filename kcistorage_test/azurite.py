"""Azurite, Microsoft's emulator of Azure Blob Storage, for tests: found, started, ended, killed, started again.

Found are, in this order: the one that AZURITE_URL names, which runs already (such as http://azurite:10000/devstoreaccount1);
`azurite-blob` on the PATH; the one that `npm install --prefix .azurite azurite` puts into this folder.
"""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Optional

from kcistorage_test.parts_at_hand import needs, needs_library

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsu" + "Fq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # no secret
INSTALLED = Path(__file__).resolve().parent.parent / ".azurite" / "node_modules" / ".bin" / "azurite-blob"
LISTENS = re.compile(r"successfully listens on http://127\.0\.0\.1:(\d+)")


def executable() -> str:
    """Where Azurite is; without one the test is skipped."""
    return shutil.which("azurite-blob") or (str(INSTALLED) if INSTALLED.exists() else needs("azurite-blob"))


class Azurite:
    """An emulator of our own, on one port of its choice from its first start on. What it stores is in `folder`, or,
    without one, in its memory.
    """

    def __init__(self, folder: Optional[Path] = None) -> None:
        self._storage = ["--inMemoryPersistence"] if folder is None else ["--location", str(folder)]
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/{ACCOUNT}"

    def start(self) -> None:
        """Returns when it accepts connections, a good second later."""
        place = ["--blobHost", "127.0.0.1", "--blobPort", str(self._port), *self._storage]
        # The library's version of the interface is sometimes newer than Azurite's.
        command = [executable(), *place, "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            found = LISTENS.search(line)
            if found:
                self._port = int(found[1])
                return
        self.stop()
        raise AssertionError(f"Azurite does not start: {''.join(said)}")

    def stop(self) -> None:
        """Ends it; a folder then holds all that was stored."""
        self.process.terminate()
        self._buried()

    def kill(self) -> None:
        """Ends it as a crash would: what was stored in the last five seconds is lost, for Azurite saves no sooner."""
        self.process.kill()
        self._buried()

    def _buried(self) -> None:
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


@cache
def running() -> str:
    """The URL of an emulator that all tests of this process share."""
    given = os.environ.get("AZURITE_URL")
    if given:
        return given.rstrip("/")
    azurite = Azurite()
    atexit.register(azurite.kill)
    return azurite.url


def client(url: str, container: str) -> Any:
    """The library's own client of a container, for a second opinion."""
    return needs_library("azure.storage.blob").ContainerClient(url, container, credential=KEY)


def new_container(url: str) -> str:
    """Makes a container with a name of its own."""
    name = f"test-{secrets.token_hex(8)}"
    client(url, name).create_container()
    return name
