"""The Stor protocol: its client, its checks, and what can be given to judge a server of it."""

from __future__ import annotations

import base64
from pathlib import Path

from conformance.core import spec
from conformance.core.plugin import Capability, Options, Run, Suite
from conformance.core.registry import Check
from conformance.core.transcript import Transcript
from conformance.core.wire import WireError
from conformance.stor.client import Client


def _direct(client: Client) -> Capability:
    """Whether bytes reach the server as they are sent: a refusal can come before the body only where they do."""
    connection = client.connection()
    connection.send(client.head("POST", "/no-sha256", [("Content-Length", str(1 << 20))]) + b"--x")
    if connection.answered_within(client.patience.ceiling("early") / 2):
        return Capability("direct", "on", "a refusal comes before the body was sent")
    return Capability("direct", "unknown", "a refusal waits for the body")


def probe(run: Run) -> dict[str, Capability]:
    """Nothing of the protocol is optional; whether a proxy collects bodies in front can be declared."""
    client = Client(run, Check("probe", "", ""), Transcript(), 1)
    try:
        run.server = (client.get("/").all("Server") or [""])[0]
        found = {"direct": _direct(client)}
    except WireError as error:
        found = {"direct": Capability("direct", "unknown", str(error))}
    finally:
        client.close()
    return found


def _hidden(options: Options) -> list[tuple[str, str]]:
    """The credentials as they are given, as they are sent, and the password in them."""
    pair = options.secrets.get("basic", "")
    coded = base64.b64encode(pair.encode()).decode()
    return [("BASIC", pair), ("BASIC64", coded), ("PASSWORD", pair.partition(":")[2])]


HERE = Path(__file__).parent

SUITE = Suite(
    spec=spec.load(spec.FOLDER / "stor.toml"),
    folders=(HERE, HERE.parent / "web"),
    client=Client,
    probe=probe,
    secrets=("basic",),
    inputs=(),
    capabilities=("direct",),
    hidden=_hidden,
)
