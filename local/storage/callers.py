"""Who is calling: the role and the claims that policies on `storage` will see."""

from __future__ import annotations

import re
from dataclasses import dataclass

from local.keys import InvalidToken, Keys, Refusal, claims_text
from local.storage.errors import StorageError, access_denied

_BEARER = re.compile(r"\s*bearer\s+", re.IGNORECASE)
_REFUSALS: dict[Refusal, str] = {
    "malformed": "Invalid Compact JWS",
    "signature": "signature verification failed",
    "expired": '"exp" claim timestamp check failed',
    "claims": "JWT claims are not valid now",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """`claims` is JSON text with the role in it. `subject` owns what the caller uploads."""

    role: str
    claims: str
    subject: str | None = None
    is_authenticated: bool = True


NOBODY = Caller("anon", '{"role":"anon"}', is_authenticated=False)
# Storage itself: as on Supabase it has the service key, so that is who a project's triggers see.
STORAGE = Caller("service_role", '{"role":"service_role"}')


def identify(keys: Keys, authorization: str | None) -> Caller:
    """Who sent this `Authorization` header.

    Raises:
        StorageError: no token, or none that holds now.
    """
    # As Storage's own server, which takes a bare token too.
    token = _BEARER.sub("", authorization or "", count=1).strip()
    try:
        claims = keys.verify_jwt(token)
    except InvalidToken as exc:
        raise access_denied(_REFUSALS[exc.reason]) from exc
    role, subject = claims.get("role", "anon"), claims.get("sub")
    if not isinstance(role, str):
        raise access_denied("JWT role claim is not a string")
    return Caller(role, claims_text({**claims, "role": role}), subject if isinstance(subject, str) else None)


def identify_or_nobody(keys: Keys, authorization: str | None) -> Caller:
    """As `identify`, for paths that also serve public buckets: whoever cannot be identified is nobody."""
    try:
        return identify(keys, authorization)
    except StorageError:
        return NOBODY
