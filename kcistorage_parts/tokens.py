"""Tokens: who is calling, and where that user may upload (AU-1 to AU-6).

A token is a JSON Web Token (RFC 7519) signed with HMAC-SHA-256. PyJWT checks the envelope and the signature (RFC 7515);
the claims are judged here, because this protocol wants only three of them: `email` names the user, `exp` and `nbf`
bound the time. Whatever else a token claims (`aud`, `sub`, `iat`, `iss`, `jti`), in any shape, is ignored.

    Authorization value -> bearer() -> verify() -> e-mail -> may_upload(e-mail, key)

Nothing here reads a clock or a file. Every function may be called from any thread.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from secrets import token_hex
from typing import Any, NamedTuple, Optional, Union

from jwt import PyJWS
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidAlgorithmError, InvalidSignatureError, PyJWTError

MAX_TOKEN_BYTES = 8 * 1024  # a token with an e-mail and a time is 140 bytes; beyond this nothing is worth parsing
KEPT_TOKENS = 256  # verified tokens remembered: 2 MiB at the most, and a farm of labs has a few dozen
DAY_SECONDS = 86_400
LATEST_SECONDS = 2**53  # RFC 8259 6: the integers that every JSON reader agrees on; no clock gets there

REASONS: dict[str, str] = {
    "token-missing": "There is no Authorization header, or nothing in it",
    "token-malformed": "No token: too long, not three parts of base64url and JSON, or with a time that is no number",
    "token-algorithm": "The token is not signed with HS256",
    "token-signature": "None of the configured secrets made the signature",
    "token-expired": "The time named by exp has come",
    "token-not-yet": "The time named by nbf has not come",
    "token-no-email": "The claim email is missing, empty, or not a string",
    "token-bad-email": "The claim email holds a control character or half a character",
}


class BadToken(ValueError):
    """A request that names no user. `reason` is for the log; `text` is all that the client is told (AU-4, AU-5)."""

    text = "Unauthorized"

    def __init__(self, reason: str) -> None:
        super().__init__(REASONS[reason])
        self.reason = reason


# ---- The Authorization header


def bearer(authorization: Optional[str]) -> str:
    """The token in an Authorization value: after a scheme word, whichever it is, or alone (AU-1).

    Raises BadToken: `token-missing` or, for more than two words, `token-malformed`.
    """
    words = (authorization or "").split()
    if not words:
        raise BadToken("token-missing")
    if len(words) > 2:
        raise BadToken("token-malformed")
    return words[-1]


# ---- The signature


class _RawSecretHS256(HMACAlgorithm):
    """HMAC-SHA-256 keyed with the secret's raw text, whatever it looks like and however short it is (AU-2).

    PyJWT would refuse a secret that resembles a public key, so that nobody passes an RS256 key off as an HMAC secret:
    here is no second algorithm to confuse this one with. It would also warn, in each process, of a secret below 32
    bytes: the server does so at its start, where somebody reads it.
    """

    def prepare_key(self, key: Union[str, bytes]) -> bytes:
        return key.encode("utf-8") if isinstance(key, str) else key

    def check_key_length(self, _key: Any) -> Optional[str]:
        return None


# AU-2: an envelope that knows no other algorithm; `none` is not refused by a check but absent.
_JWS = PyJWS(algorithms=[])
_JWS.register_algorithm("HS256", _RawSecretHS256(HMACAlgorithm.SHA256))


def _payload_signed_with(secret: str, token: str) -> Optional[bytes]:
    try:
        payload: bytes = _JWS.decode(token, secret, algorithms=["HS256"])
    except InvalidSignatureError:
        return None
    except InvalidAlgorithmError:
        raise BadToken("token-algorithm") from None
    # json.loads gives up on 8 KiB of opening brackets with a RecursionError, which some releases of PyJWT let through.
    except (PyJWTError, RecursionError):
        raise BadToken("token-malformed") from None
    return payload


def _signed_payload(token: str, secrets: Sequence[str]) -> bytes:
    """The payload, if one of the secrets signed it. An empty secret signs nothing (AU-2)."""
    for secret in filter(None, secrets):
        payload = _payload_signed_with(secret, token)
        if payload is not None:
            return payload
    raise BadToken("token-signature")


@lru_cache(maxsize=KEPT_TOKENS)
def _signed_claims(token: str, secrets: tuple[str, ...]) -> Mapping[str, object]:
    """The claims of a token, none of them judged yet.

    Measured: 23 µs, remembered 0.3 µs. Remembering is safe: a signature does not change, times are judged at each call,
    another list of secrets is another entry, and a refusal is an exception, which lru_cache never keeps. So only the
    holders of valid tokens can fill the memory.
    """
    payload = _signed_payload(token, secrets)
    try:
        claims = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadToken("token-malformed") from None
    if not isinstance(claims, dict):
        raise BadToken("token-malformed")
    return claims


# ---- The claims

# An e-mail goes into log lines, headers and tags: no control character, no line end, no half of a surrogate pair.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _email(claims: Mapping[str, object]) -> str:
    """The user's name, as it stands in the token (AU-3)."""
    email = claims.get("email")
    if not isinstance(email, str) or not email.strip():
        raise BadToken("token-no-email")
    if _UNPRINTABLE.search(email):
        raise BadToken("token-bad-email")
    return email


def _moment(claims: Mapping[str, object], name: str, absent: float) -> float:
    """A NumericDate (RFC 7519 2): seconds since the epoch. true, "12", NaN and 1e300 are none."""
    if name not in claims:
        return absent
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LATEST_SECONDS:
        raise BadToken("token-malformed")
    return value


def verify(token: str, secrets: Sequence[str], now: float, enforce_expiry: bool = True) -> str:
    """The e-mail of the user to whom this token was given.

    The secrets are tried in order. `now` is in seconds since the epoch; a token ends at the very second that `exp`
    names (RFC 7519 4.1.4), without leeway. With `enforce_expiry` false, `exp` and `nbf` are not even looked at (AU-3).
    Raises BadToken.
    """
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise BadToken("token-malformed")
    claims = _signed_claims(token, tuple(secrets))
    if enforce_expiry and _moment(claims, "exp", absent=math.inf) <= now:
        raise BadToken("token-expired")
    if enforce_expiry and _moment(claims, "nbf", absent=-math.inf) > now:
        raise BadToken("token-not-yet")
    return _email(claims)


# ---- Minting


def mint(email: str, secret: str, now: float, expires_in_days: Optional[float] = None) -> str:
    """A token that `verify` takes: it holds the e-mail and, where asked for, the second at which it ends (AU-3).

    Raises ValueError for an e-mail that `verify` would refuse, an empty secret, and an end that is not in the future.
    """
    claims: dict[str, object] = {"email": _email({"email": email})}
    if not secret:
        raise ValueError("an empty secret signs nothing")
    if expires_in_days is not None:
        if not 0 < expires_in_days * DAY_SECONDS <= LATEST_SECONDS - now:
            raise ValueError(f"a token cannot be valid for {expires_in_days} days")
        claims["exp"] = math.ceil(now + expires_in_days * DAY_SECONDS)
    payload = json.dumps(claims, separators=(",", ":")).encode("ascii")
    token = _JWS.encode(payload, secret, algorithm="HS256")
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError("the e-mail is too long for a token")
    return token


def new_secret() -> str:
    """A fresh secret for the configuration: 256 random bits, as many as HS256 wants (RFC 7518 3.2), as hex digits."""
    return token_hex(32)


# ---- Permission


class User(NamedTuple):
    """One `[[users]]` entry of the configuration: an e-mail, and the beginnings of the keys it may write."""

    name: str
    prefixes: tuple[str, ...]


def may_upload(email: str, key: str, users: Sequence[User]) -> bool:
    """Whether this user may write this key (AU-6). No entries at all: everybody may; several of one name add up.

    Upstream: a prefix is plain text, not a folder, so `restricted-area` covers `restricted-area-2/x` as well.
    """
    if not users:
        return True
    bare_key = key.lstrip("/")
    return any(
        bare_key.startswith(prefix.lstrip("/")) for user in users if user.name == email for prefix in user.prefixes
    )
