"""Who calls: the bearer token, then the user and session it names.

A signature proves only who once signed in. The user and the session are looked up on every call, so a deleted user
and a session signed out elsewhere are refused at once, before their token expires.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from local.auth import sessions, users
from local.auth.bodies import uuid_of
from local.auth.database import Cursor
from local.auth.errors import AuthError, Endpoint, answering_errors
from local.auth.sessions import Session
from local.auth.users import User
from local.keys import Claims, InvalidToken, Keys

ADMIN_ROLES = frozenset({"service_role", "supabase_admin"})


@dataclass(frozen=True, slots=True)
class Caller:
    """A signed-in user. A token made outside a sign-in may name no session."""

    user: User
    session: Session | None


def claims_of(request: Request, keys: Keys) -> Claims:
    """The claims of the request's bearer token. The gateway has put the API key there if the caller sent none.

    Raises:
        AuthError: 401 no_authorization, or 403 bad_jwt.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
    try:
        return keys.verify_jwt(token.strip())
    except InvalidToken as exc:
        raise _bad_jwt(f"invalid JWT: unable to parse or verify signature, {exc}") from exc


def admin_only(keys: Keys, endpoint: Endpoint) -> Endpoint:
    """The endpoint for nobody but the service role (or the platform's own admin)."""

    async def guarded(request: Request) -> Response:
        if claims_of(request, keys).get("role") not in ADMIN_ROLES:
            raise AuthError(403, "not_admin", "User not allowed")
        return await endpoint(request)

    return answering_errors(guarded)


async def caller_of(request: Request, keys: Keys, cursor: Cursor) -> Caller:
    """The user and session behind the request.

    Raises:
        AuthError: as `claims_of`; 403 user_not_found, user_banned or session_not_found when the token outlived that.
    """
    claims = claims_of(request, keys)
    if not claims.get("sub"):
        raise _bad_jwt("invalid claim: missing sub claim")
    not_a_uuid = AuthError(400, "bad_jwt", "invalid claim: sub claim must be a UUID")
    user = await users.find(cursor, uuid_of(str(claims["sub"]), otherwise=not_a_uuid))
    if user is None:
        raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
    if user.is_banned:
        raise AuthError(403, "user_banned", "User is banned")
    if not claims.get("session_id"):
        return Caller(user, None)
    wrong_session = _bad_jwt("invalid claim: session_id claim must be a UUID")
    session = await sessions.find(cursor, uuid_of(str(claims["session_id"]), otherwise=wrong_session))
    if session is None or session.user_id != user.id:
        raise AuthError(403, "session_not_found", "Session from session_id claim in JWT does not exist")
    return Caller(user, session)


def _bad_jwt(message: str) -> AuthError:
    return AuthError(403, "bad_jwt", message)
