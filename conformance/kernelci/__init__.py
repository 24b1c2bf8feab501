"""The KernelCI storage protocol: its client, its checks, and how the capabilities of a server are found."""

from __future__ import annotations

from pathlib import Path

from conformance.core import spec
from conformance.core.plugin import Capability, Run, Suite
from conformance.core.registry import Check
from conformance.core.transcript import Transcript
from conformance.core.verdict import NotJudged
from conformance.core.wire import Response, WireError
from conformance.kernelci.client import FORM_TYPE, Client

_PROBES = {
    # capability: what is asked, and the statuses that say that the server does not offer it
    "list": ("GET", "/v1/list", (403, 404, 405, 501)),
    "archive": ("POST", "/v1/archive", (404, 405, 501)),
    "challenge": ("POST", "/v1/download-challenge", (404, 405, 501)),
}
_DECLARED = ("useragent", "expiry", "subnets")  # cannot be told apart from a fault: on unless declared off
_PROXIES = ("nginx", "varnish", "cloudflare", "haproxy", "apache", "envoy", "openresty", "caddy", "cloudfront")


def _answers_early(client: Client) -> bool:
    connection = client.connection()
    connection.send(client.head("POST", "/v1/file", [FORM_TYPE, ("Content-Length", str(1 << 20))]) + b"--x")
    return connection.answered_within(client.patience.ceiling("early") / 2)


def _names(response: Response, proxy: str) -> bool:
    return any(proxy in value.lower() for name in ("Server", "Via") for value in response.all(name))


def _direct(client: Client) -> Capability:
    """Whether bytes reach the server as they are sent. A proxy that collects the body first hides every lock."""
    try:
        root = client.get("/")
        client.run.server = (root.all("Server") or [""])[0]
        if _answers_early(client):
            return Capability("direct", "on", "a refusal comes before the body was sent")
    except (WireError, NotJudged) as error:
        return Capability("direct", "unknown", str(error))
    proxy = next((name for name in _PROXIES if _names(root, name)), None)
    if proxy is None:
        return Capability("direct", "unknown", "no sign of a proxy")
    return Capability("direct", "off", f"{proxy} in front collects each body before the server sees it")


def _asked(client: Client, name: str, method: str, path: str, refusals: tuple[int, ...]) -> Capability:
    try:
        response = client.request(method, path, body=b"" if method == "POST" else None)
    except WireError as error:
        return Capability(name, "unknown", str(error))
    state = "off" if response.status in refusals else "on"
    return Capability(name, state, f"{method} {path} is answered {response.status}")


def probe(run: Run) -> dict[str, Capability]:
    """Asks once for each optional feature."""
    client = Client(run, Check("probe", "", ""), Transcript(), 1)
    found = {name: Capability(name, "on", "always, unless declared off") for name in _DECLARED}
    try:
        for name, (method, path, refusals) in _PROBES.items():
            found[name] = _asked(client, name, method, path, refusals)
        found["direct"] = _direct(client)
    finally:
        client.close()
    return found


HERE = Path(__file__).parent

SUITE = Suite(
    spec=spec.load(spec.FOLDER / "kernelci.toml"),
    folders=(HERE, HERE.parent / "web"),
    client=Client,
    probe=probe,
    secrets=("token", "limited", "expired", "secret"),
    inputs=("limited_prefix", "blocked_address", "challenge_agent"),
    capabilities=(*_PROBES, *_DECLARED, "direct"),
)
