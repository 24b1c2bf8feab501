"""The browser download challenge (GA-4): a page whose script fetches a cookie; who runs no script gets no file.

    Challenge.concerns   whether a User-Agent is challenged at all
    Challenge.passed     whether a request carries a cookie of ours, in time and from the network it was given to
    Challenge.page       the page; CHALLENGE_HEADERS let it run its own script and nothing else
    Challenge.cookie     what the page's script comes back for: a Set-Cookie with an HS256 JWT of `exp` and `net`

It turns away programs that call themselves a browser and are none. Who wants to can take the cookie without a browser.
Pure: the clock is an argument. Any thread may call.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address, ip_network
from itertools import islice

import jwt

ALGORITHM = "HS256"
CHALLENGE_PATH = "/v1/download-challenge"
FALLBACK_QUERY = "challenge_fallback=1"  # in the query: the file without the script, slowly
MOST_TOKEN = 512  # characters; ours have 160. Also what keeps a parser of JSON from nesting too deep
MOST_COOKIES = 4  # of our name that are looked at; a browser sends one, or two if another host of the domain sets one

# ---- The page

# The browser's own colours: of light and dark it has the one that the reader likes, with enough contrast.
STYLE = """
:root { color-scheme: light dark; font: 1.125rem/1.5 system-ui, sans-serif; }
body { margin: 0; }
main { max-width: 34rem; margin: 15vh auto; padding: 0 1.5rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
"""

# A browser that drops the cookie gets this page again: it must not go round for ever. The script cannot see the cookie,
# which is HttpOnly, so it leaves the time in `history.state`, which stays with a reload of this visit and goes with it.
# If this page began within 20 s of that, the reload brought no file: a cookie that was kept is good for longer (GA-4:
# 30 s or more). Then the script stops, and forgets, so that the reader's own reload is a new try. No other visit or tab
# is held up, and it works where a browser without cookies has no sessionStorage either. It is written as "not above",
# so that a state which is no number counts as recent.
SCRIPT = """
(async () => {
  const tell = text => {
    document.title = document.getElementById("status").textContent = text;
  };
  const fail = text => {
    tell(text);
    document.getElementById("ways").hidden = false;
  };
  const tried = history.state;
  history.replaceState(null, "");
  if (tried !== null && !(performance.timeOrigin - tried > 20000))
    return fail("No download: this browser did not keep the cookie that it needs, or its network address changed.");
  try {
    const answer = await fetch("/v1/download-challenge", {method: "POST", credentials: "same-origin"});
    if (!answer.ok) return fail("No download: the server did not grant it (status " + answer.status + ").");
    tell("The download starts. You may close this page.");
    history.replaceState(performance.timeOrigin + performance.now(), "");
    location.reload();
  } catch (error) {
    fail("No download: the server could not be reached (" + error.message + ").");
  }
})();
"""

# The icon is none: a browser would ask for /favicon.ico, which leads elsewhere.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<link rel="icon" href="data:,">
<title>Please wait</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>Your download</h1>
<p id="status" role="status">Please wait. The download starts by itself.</p>
<noscript><p>Without JavaScript it will not: allow it for this site and reload the page,
or use a download tool such as curl or wget.</p>{without_script}</noscript>
<p id="ways" hidden><a href="">Try again</a>{after_failure}</p>
</main>
<script>{script}</script>
</body>
</html>
"""

# Of pages that offer the way without a script. Relative: it stays with the file.
WITHOUT_SCRIPT = f'\n<p><a href="?{FALLBACK_QUERY}">Download it slowly</a></p>'
AFTER_FAILURE = f' or <a href="?{FALLBACK_QUERY}">download it slowly</a>'


def source_hash(text: str) -> str:
    """CSP 3 2.3.1: names an inline script or style of just this text, all that is between its tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = "; ".join(
    [
        "default-src 'none'",
        f"script-src {source_hash(SCRIPT)}",
        f"style-src {source_hash(STYLE)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
# Vary is for a cache that stores in spite of no-store. The file itself goes without: what a cache in front of us has
# stored costs us nothing, whoever asks.
CHALLENGE_HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store, private"),
    ("Content-Security-Policy", POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("Vary", "Cookie, User-Agent"),
)

# ---- The cookie


def network(address: str, ipv4_prefix_length: int, ipv6_prefix_length: int) -> str:
    """The network of a client, to which its cookie is bound: addresses change inside it. "" for what is no address.

    `::ffff:192.0.2.1` is the IPv4 client of a dual-stack socket. A zone (`fe80::1%eth0`) is a name of ours, not theirs.
    """
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    return str(ip_network((ip, ipv4_prefix_length if ip.version == 4 else ipv6_prefix_length), strict=False))


class Challenge:
    """Whom to challenge, and what their cookies are like.

    `user_agents` are parts of them, in any case; the prefix lengths are in bits. `fallback`: whether the page offers
    the way without a script. `secure`: for a site with HTTPS, which may end at a proxy.
    """

    def __init__(
        self,
        user_agents: Sequence[str],
        secret: str,
        ttl_seconds: int = 600,
        ipv4_prefix_length: int = 24,
        ipv6_prefix_length: int = 64,
        fallback: bool = False,
        secure: bool = True,
    ) -> None:
        self._words = [word.lower() for word in user_agents]
        self._secret, self._ttl_seconds = secret, ttl_seconds
        self._prefix_lengths = ipv4_prefix_length, ipv6_prefix_length
        self._page = PAGE.format(
            style=STYLE,
            script=SCRIPT,
            without_script=WITHOUT_SCRIPT if fallback else "",
            after_failure=AFTER_FAILURE if fallback else "",
        ).encode()
        # RFC 6265bis 4.1.3.2: `__Host-` has the browser insist on Secure, on Path=/ and on this very host.
        self.cookie_name = "__Host-kci-download" if secure else "kci-download"
        self._attributes = f"Path=/; Max-Age={ttl_seconds}; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"
        # RFC 6265 4.1.1 and 5.4; the comma is that of joined Cookie fields (RFC 9110 5.3), which no client should send.
        self._ours = re.compile(rf"(?:^|[;,])[ \t]*{self.cookie_name}=([A-Za-z0-9._-]{{1,{MOST_TOKEN}}})(?=[ \t;,]|$)")

    def concerns(self, user_agent: str) -> bool:
        """Whether this User-Agent is challenged."""
        lowered = user_agent.lower()
        return any(word in lowered for word in self._words)

    def page(self) -> bytes:
        """The page; its headers are CHALLENGE_HEADERS."""
        return self._page

    def cookie(self, address: str, now: float) -> str:
        """The value of a Set-Cookie for the client of this address; `now` is in seconds since 1970."""
        claims = {"exp": int(now) + self._ttl_seconds, "net": network(address, *self._prefix_lengths)}
        return f"{self.cookie_name}={jwt.encode(claims, self._secret, ALGORITHM)}; {self._attributes}"

    def passed(self, cookie_field: str, address: str, now: float) -> bool:
        """Whether the client has been here lately.

        Of several cookies with our name one is enough: another host of the same domain can add to them, not forge one.
        """
        tokens = (match[1] for match in islice(self._ours.finditer(cookie_field), MOST_COOKIES))
        here = network(address, *self._prefix_lengths)
        return any(self._grants(token, here, now) for token in tokens)

    def _grants(self, token: str, here: str, now: float) -> bool:
        try:  # the clock is an argument: PyJWT is not to look at its own
            claims = jwt.decode(token, self._secret, [ALGORITHM], options={"verify_exp": False, "require": ["exp"]})
        except jwt.InvalidTokenError:
            return False
        expires = claims["exp"]  # a number in ours; in what else was signed with this secret, anything
        return claims.get("net") == here and isinstance(expires, (int, float)) and now < expires
