"""Status and gates: ST-*, GA-*."""

from __future__ import annotations

from conformance.core import expect
from conformance.core.registry import clause
from conformance.core.verdict import Unsupported
from conformance.core.wire import Response
from conformance.kernelci import tokens
from conformance.kernelci.client import Client

CRAWLERS = (
    "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)",
    "CCBot/2.0 (https://commoncrawl.org/faq/)",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
    "Mozilla/5.0 (compatible; SemrushBot/7~bl; +http://www.semrush.com/bot.html)",
)
SEARCH_ENGINES = ("Googlebot/2.1", "bingbot/2.0", "msnbot/2.0b", "adidxbot/2.0")


@clause("ST-01a", "status.banner", writes=False)
def test_banner(kci: Client) -> None:
    """GET / names the server."""
    response = expect.status(kci.get("/"), 200)
    banners = ("KernelCI Proxy Server", "KernelCI Storage Server")
    expect.that(any(one in response.text for one in banners), " or ".join(banners), response.text[:120])
    expect.equal(expect.media_type(response)[0].split("/")[0], "text", "the type of the banner")
    expect.status(kci.get("/no/such/object"), 404, context="the banner is nowhere else")


@clause("ST-03a", "status.robots", writes=False)
def test_robots(kci: Client) -> None:
    """robots.txt keeps every crawler out of everything."""
    response = expect.status(kci.get("/robots.txt"), 200)
    lines = [line.split("#")[0].strip().lower().replace(" ", "") for line in response.text.splitlines()]
    expect.that("user-agent:*" in lines and "disallow:/" in lines, "User-agent: * and Disallow: /", response.text)


@clause("ST-03b", "status.favicon", writes=False)
def test_favicon(kci: Client) -> None:
    """The icon is elsewhere, and the answer says where."""
    location = expect.header(expect.status(kci.get("/favicon.ico"), 301), "Location")
    expect.that("kernelci.org/" in location, "a Location on kernelci.org", location)


# ------------------------------------------------------------------------------------------------- User-Agent list


def _banned(kci: Client, agent: str, *paths: str) -> None:
    for path in paths:
        response = expect.status(kci.get(path, User_Agent=agent), 403, context=f"GET {path} by {agent}")
        expect.that("Forbidden" in response.text, "Forbidden", response.text[:80])


@clause("GA-01a", "gate.agent.banned", writes=False, needs=("useragent",))
def test_banned_agents(kci: Client) -> None:
    """Crawlers are refused before any handler: also for what is missing or needs a token."""
    expect.status(kci.get("/"), 200, context="GET / by the suite's own agent")
    for agent in CRAWLERS:
        _banned(kci, agent, "/", "/no/such/object", "/v1/checkauth")


@clause("GA-01b", "gate.agent.substring", writes=False, needs=("useragent",))
def test_agent_substring(kci: Client) -> None:
    """Case and surroundings do not matter."""
    expect.status(kci.get("/", User_Agent="Mozilla/5.0 (X11)"), 200, context="an ordinary browser")
    for agent in ("gptbot", "GPTBOT", "x-GptBot-x"):
        _banned(kci, agent, "/")


@clause("GA-01c", "gate.agent.welcome", writes=False, needs=("useragent",))
def test_welcome_agents(kci: Client) -> None:
    """The great search engines are let in."""
    for agent in SEARCH_ENGINES:
        expect.status(kci.get("/", User_Agent=f"Mozilla/5.0 (compatible; {agent})"), 200, context=agent)
    _banned(kci, CRAWLERS[0], "/")


# ------------------------------------------------------------------------------------------------- client address


def _addresses(kci: Client) -> tuple[str, str]:
    return kci.given(
        "blocked_address", "--blocked-address (inside block_subnets, sent from a trusted proxy)"
    ), "198.51.100.1"


@clause("GA-02a", "gate.subnet.blocked", writes=False, needs=("subnets",))
def test_blocked_subnet(kci: Client) -> None:
    """The same request from a blocked address and from another one."""
    blocked, other = _addresses(kci)
    expect.status(kci.get("/", X_Forwarded_For=other), 200, context="another address")
    response = expect.status(kci.get("/", X_Forwarded_For=blocked), 403, context="the blocked address")
    expect.that("Forbidden" in response.text, "Forbidden", response.text[:80])


@clause("GA-03a", "gate.forwarded.rightmost", writes=False, needs=("subnets",))
def test_rightmost(kci: Client) -> None:
    """What a client writes into the header itself stands left of what the proxy adds."""
    blocked, other = _addresses(kci)
    expect.status(kci.get("/", X_Forwarded_For=f"{other}, {blocked}"), 403, context="blocked at the right")
    expect.status(kci.get("/", X_Forwarded_For=f"{blocked}, {other}"), 200, context="blocked only at the left")
    expect.status(kci.get("/", X_Forwarded_For=f"{other}, {blocked}, 127.0.0.1"), 403, context="a trusted hop after it")


@clause("GA-03b", "gate.forwarded.standard", writes=False, needs=("subnets",))
def test_forwarded(kci: Client) -> None:
    """RFC 7239 is read where the older header is absent."""
    blocked, other = _addresses(kci)
    expect.status(kci.get("/", Forwarded=f"for={other};proto=https"), 200, context="another address")
    expect.status(kci.get("/", Forwarded=f"for={blocked};proto=https"), 403, context="the blocked address")


# -------------------------------------------------------------------------------------------------- the challenge


def _browser(kci: Client) -> str:
    return kci.given("challenge_agent", "--challenge-agent (a User-Agent the challenge is for)")


def _page(kci: Client) -> tuple[str, bytes, Response]:
    sample = kci.sample("challenged.bin")
    return sample.path, sample.data, kci.get(sample.path, User_Agent=_browser(kci))


def _cookie(kci: Client) -> tuple[str, str, dict[str, str]]:
    """Name, value and attributes of the cookie that the POST gives."""
    response = kci.request("POST", "/v1/download-challenge", [("User-Agent", _browser(kci))], b"")
    expect.status(response, 204, context="POST /v1/download-challenge")
    pair, *rest = expect.header(response, "Set-Cookie").split(";")
    name, _, value = pair.strip().partition("=")
    attributes = {key.strip().lower(): text for key, _, text in (one.partition("=") for one in rest)}
    return name, value, attributes


@clause("GA-04a", "challenge.page", writes=False, needs=("challenge",))
def test_challenge_page(kci: Client) -> None:
    """A browser gets the page, not the bytes."""
    _, data, page = _page(kci)
    expect.status(page, 200)
    expect.equal(expect.media_type(page)[0], "text/html", "the type of the page")
    expect.that(data not in page.body and b"/v1/download-challenge" in page.body, "the challenge page", page.text[:120])


@clause("GA-04b", "challenge.headers", writes=False, needs=("challenge",))
def test_challenge_headers(kci: Client) -> None:
    """The page is neither stored nor framed into anything."""
    _, _, page = _page(kci)
    directives = {word.strip().lower() for word in expect.header(page, "Cache-Control").split(",")}
    expect.that({"no-store", "private"} <= directives, "no-store, private", directives)
    expect.header(page, "Content-Security-Policy")
    expect.equal(expect.header(page, "Referrer-Policy").lower(), "no-referrer", "Referrer-Policy")


@clause("GA-04c", "challenge.cookie", writes=False, needs=("challenge",))
def test_challenge_cookie(kci: Client) -> None:
    """The cookie cannot be read by scripts nor sent from elsewhere, and ends."""
    name, _, attributes = _cookie(kci)
    expect.that("httponly" in attributes, "HttpOnly", attributes)
    expect.equal(attributes.get("samesite", "").lower(), "lax", "SameSite")
    expect.equal(attributes.get("path"), "/", "Path")
    expect.that(attributes.get("max-age", "").isdigit(), "Max-Age", attributes)
    expect.that(name in ("__Host-kci-download", "kci-download"), "__Host-kci-download or kci-download", name)
    expect.equal("secure" in attributes, name.startswith("__Host-"), "Secure for the name with __Host-")


@clause("GA-04d", "challenge.opens", writes=False, needs=("challenge",))
def test_challenge_opens(kci: Client) -> None:
    """The same browser, with its cookie."""
    path, data, page = _page(kci)
    expect.that(page.body != data, "the page first", "the object")
    name, value, _ = _cookie(kci)
    response = expect.status(kci.get(path, User_Agent=_browser(kci), Cookie=f"a=b; {name}={value}"), 200)
    expect.body(response, data)


@clause("GA-04e", "challenge.forged", writes=False, needs=("challenge",))
def test_challenge_forged(kci: Client) -> None:
    """One change to the cookie, and it opens nothing."""
    path, data, _ = _page(kci)
    name, value, _ = _cookie(kci)
    agent = _browser(kci)
    expect.body(kci.get(path, User_Agent=agent, Cookie=f"{name}={value}"), data, "with the true cookie")
    head, claims, signature = tokens.split(value)
    forged = (
        f"{head}.{claims}.{tokens.encode(bytes(byte ^ 1 for byte in tokens.decode(signature)))}",
        tokens.unsigned(tokens.claims_of(value), "none"),
        tokens.mint("", tokens.claims_of(value)),
    )
    for one in forged:
        response = kci.get(path, User_Agent=agent, Cookie=f"{name}={one}")
        expect.that(data not in response.body, "the challenge page", expect.describe(response), "with a forged cookie")


@clause("GA-04f", "challenge.others", writes=False, needs=("challenge",))
def test_challenge_others(kci: Client) -> None:
    """curl is not asked, and cannot ask for a cookie."""
    sample = kci.sample("challenged.bin")
    expect.body(kci.get(sample.path, User_Agent="curl/8.5.0"), sample.data)
    response = kci.request("POST", "/v1/download-challenge", [("User-Agent", "curl/8.5.0")], b"")
    expect.status(response, 403, context="POST by another agent")


@clause("GA-04g", "challenge.fallback", writes=False, needs=("challenge",))
def test_challenge_fallback(kci: Client) -> None:
    """A browser without scripts is served slowly, by the proxy in front."""
    path, data, page = _page(kci)
    if "challenge_fallback" not in page.text:
        raise Unsupported("the page offers no fallback: fallback_bytes_per_second is not set")
    response = expect.status(kci.get(path + "?challenge_fallback=1", User_Agent=_browser(kci)), 200)
    expect.body(response, data)
    limit = expect.header(response, "X-Accel-Limit-Rate")
    expect.that(limit.isdigit() and int(limit) > 0, "bytes per second", limit)
