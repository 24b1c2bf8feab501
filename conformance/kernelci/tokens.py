"""JSON Web Tokens by hand: right ones, and every wrong one a check needs. Standard library only."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping

_DIGESTS = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _signing_input(header: Mapping[str, object], claims: Mapping[str, object]) -> str:
    return ".".join(encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))


def mint(secret: str, claims: Mapping[str, object], algorithm: str = "HS256") -> str:
    """A token signed with the raw text of `secret`."""
    signed = _signing_input({"alg": algorithm, "typ": "JWT"}, claims)
    return f"{signed}.{encode(hmac.new(secret.encode(), signed.encode(), _DIGESTS[algorithm]).digest())}"


def unsigned(claims: Mapping[str, object], algorithm: str, signature: str = "") -> str:
    """A token that only claims an algorithm."""
    return f"{_signing_input({'alg': algorithm, 'typ': 'JWT'}, claims)}.{signature}"


def claims_of(token: str) -> dict[str, object]:
    """The claims of a token, unverified. Raises ValueError for what is no JWT."""
    found = json.loads(decode(token.split(".")[1] if token.count(".") == 2 else ""))
    if not isinstance(found, dict):
        raise ValueError("the claims are no object")
    return found


def split(token: str) -> tuple[str, str, str]:
    header, claims, signature = token.split(".")
    return header, claims, signature
