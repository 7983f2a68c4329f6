"""Who is calling: the role and claims that the database will see."""

from __future__ import annotations

import time
from dataclasses import dataclass

from local.keys import InvalidToken, Keys, claims_text
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
            code = "PGRST303" if exc.reason in {"expired", "claims"} else "PGRST301"
            raise not_authenticated(code, str(exc)) from exc
        role = claims.get("role", ANONYMOUS_ROLE)
        if not isinstance(role, str):
            raise ApiError(401, "PGRST303", "JWT role claim is not a string", headers={"WWW-Authenticate": "Bearer"})
        caller = Caller(role, claims_text({**claims, "role": role}))
        now = time.time()
        if len(self._known) >= _MOST_TOKENS:
            self._known.clear()
        self._known[token] = caller, min(now + _TRUST_SECONDS, float(claims.get("exp", now + _TRUST_SECONDS)))
        return caller
