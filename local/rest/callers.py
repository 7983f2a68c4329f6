"""Who is calling: the role and claims that the database will see."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import jwt

from local.keys import CLOCK_SKEW_SECONDS, Claims, InvalidToken, Keys, Refusal, claims_text
from local.rest.errors import ApiError, not_authenticated

ANONYMOUS_ROLE = "anon"
_TRUST_SECONDS = 60.0  # a token is checked again after this, and at its own end
_MOST_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Caller:
    """`claims` is the text of `request.jwt.claims`, the role always in it."""

    role: str
    claims: str


ANONYMOUS = Caller(ANONYMOUS_ROLE, '{"role":"anon"}')


class Callers:
    """Verifies tokens, and remembers for a while those it has verified: a signature costs as much as a query."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known: dict[str, tuple[Caller, float]] = {}

    def identify(self, authorization: str | None) -> Caller:
        """Who sent this `Authorization` header; nobody in particular without a bearer token.

        Raises:
            ApiError: PGRST301 for a token that is not ours, PGRST303 for one that does not hold now.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return ANONYMOUS
        token = token.strip()
        known = self._known.get(token)
        if known is not None and time.time() < known[1]:
            return known[0]
        return self._verify(token)

    def _verify(self, token: str) -> Caller:
        try:
            claims = self._keys.verify_jwt(token)
        except InvalidToken as exc:
            raise _refusal(token, exc.reason) from exc
        if not _is_audience(claims.get("aud")):
            raise not_authenticated("PGRST303", "The JWT 'aud' claim must be a string or an array of strings")
        role = claims.get("role", ANONYMOUS_ROLE)
        if not isinstance(role, str):
            raise ApiError(401, "PGRST303", "JWT role claim is not a string", headers={"WWW-Authenticate": "Bearer"})
        caller = Caller(role, claims_text({**claims, "role": role}))
        now = time.time()
        if len(self._known) >= _MOST_TOKENS:
            self._known.clear()
        self._known[token] = caller, min(now + _TRUST_SECONDS, float(claims.get("exp", now + _TRUST_SECONDS)))
        return caller


def _refusal(token: str, reason: Refusal) -> ApiError:
    """Why a token was refused, in PostgREST's words. What is looked at here has been found wanting already."""
    if not token:
        return not_authenticated("PGRST301", "Empty JWT is sent in Authorization header")
    parts = token.count(".") + 1
    if parts != 3:
        return not_authenticated("PGRST301", f"Expected 3 parts in JWT; got {parts}")
    if reason == "expired":
        return not_authenticated("PGRST303", "JWT expired")
    if _algorithm(token) == "none":
        details = "JWT is unsecured but expected 'alg' was not 'none'"
        return not_authenticated("PGRST301", "Wrong or unsupported encoding algorithm", details=details)
    if reason == "signature":
        details = "None of the keys was able to decode the JWT"
        return not_authenticated("PGRST301", "No suitable key or wrong key type", details=details)
    return _claim_refusal(_unverified(token))


def _claim_refusal(claims: Claims) -> ApiError:
    for name in ("exp", "nbf", "iat"):
        if name in claims and (isinstance(claims[name], bool) or not isinstance(claims[name], (int, float))):
            return not_authenticated("PGRST303", f"The JWT '{name}' claim must be a number")
    latest = time.time() + CLOCK_SKEW_SECONDS
    for name, message in (("nbf", "JWT not yet valid"), ("iat", "JWT issued at future")):
        if claims.get(name, latest) > latest:
            return not_authenticated("PGRST303", message)
    return not_authenticated("PGRST301", "JWT cryptographic operation failed")


def _is_audience(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, str) for one in cast("list[object]", value))
    return value is None or isinstance(value, str)


def _algorithm(token: str) -> object:
    try:
        return jwt.get_unverified_header(token).get("alg")
    except jwt.InvalidTokenError:
        return None


def _unverified(token: str) -> Claims:
    try:
        return jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return {}
