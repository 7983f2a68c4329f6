"""auth.sessions and their refresh tokens.

A session is one sign-in on one device. It has one live refresh token at a time; each use revokes it and makes its
child, so a token that comes back late shows that two parties hold the same session, and both lose it.
Whoever changes the tokens of a session holds the lock on its row: session first, tokens after, as a sign-out does.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal, LiteralString
from uuid import UUID, uuid4

from local.auth.database import Cursor
from local.auth.errors import AuthError

Scope = Literal["global", "local", "others"]

REUSE_SECONDS = 10  # a used token is still good for its successor: GoTrue's default

# One statement: foreign keys are checked at its end.
_OPEN = """
    with session as (
      insert into auth.sessions (id, user_id, aal, user_agent, created_at, updated_at)
      values (%(id)s, %(user_id)s, 'aal1', %(user_agent)s, now(), now())
    ), method as (
      insert into auth.mfa_amr_claims (id, session_id, authentication_method, created_at, updated_at)
      values (gen_random_uuid(), %(id)s, %(method)s, now(), now())
    ), signed_in as (
      update auth.users set last_sign_in_at = now(), updated_at = now() where id = %(user_id)s
    ), identity as (
      update auth.identities set last_sign_in_at = now(), updated_at = now()
      where user_id = %(user_id)s and provider = 'email' and %(method)s <> 'anonymous'
    )
    insert into auth.refresh_tokens (instance_id, token, user_id, session_id, revoked, created_at, updated_at)
    values ('00000000-0000-0000-0000-000000000000', %(token)s, %(user_id)s::text, %(id)s, false, now(), now())
"""
_FIND = """
    select s.id, s.user_id, s.aal::text,
      coalesce(s.created_at < now() - interval '24 hours', true) as is_old,
      (select coalesce(jsonb_agg(jsonb_build_object(
          'method', m.authentication_method, 'timestamp', floor(extract(epoch from m.updated_at))::bigint
        ) order by m.updated_at desc), '[]')
       from auth.mfa_amr_claims m where m.session_id = s.id) as amr
    from auth.sessions s where s.id = %s
"""
_LOCK_BY_TOKEN = """
    select id, coalesce(not_after < now(), false) as expired
    from auth.sessions where id = (select session_id from auth.refresh_tokens where token = %s)
    for update
"""
_TOKENS = """
    select used.revoked, live.token as live,
      live.parent is not distinct from used.token
        or used.updated_at + make_interval(secs => %(reuse_seconds)s) > now() as may_return
    from auth.refresh_tokens used
    left join lateral (
      select token, parent from auth.refresh_tokens
      where session_id = used.session_id and not revoked order by id desc limit 1
    ) live on true
    where used.token = %(token)s
"""
_ROTATE = """
    with used as (
      update auth.refresh_tokens set revoked = true, updated_at = now() where token = %(token)s
      returning instance_id, user_id, session_id, token
    ), session as (
      update auth.sessions set refreshed_at = now() at time zone 'utc', updated_at = now()
      where id = (select session_id from used)
    )
    insert into auth.refresh_tokens (instance_id, token, parent, user_id, session_id, revoked, created_at, updated_at)
    select instance_id, %(child)s, token, user_id, session_id, false, now(), now() from used
"""
_REVOKE_FAMILY = (
    "update auth.refresh_tokens set revoked = true, updated_at = now() where session_id = %s and not revoked"
)
_RAISE = """
    with method as (
      insert into auth.mfa_amr_claims (id, session_id, authentication_method, created_at, updated_at)
      values (gen_random_uuid(), %(id)s, %(method)s, clock_timestamp(), clock_timestamp())
      on conflict (session_id, authentication_method) do update set updated_at = excluded.updated_at
    ), weaker as (
      delete from auth.sessions
      where user_id = %(user_id)s and id <> %(id)s and coalesce(aal, 'aal1') < 'aal2'
    )
    update auth.sessions set aal = 'aal2', factor_id = %(factor_id)s, updated_at = now() where id = %(id)s
"""
_LIVE_TOKEN = """
    select token from auth.refresh_tokens where session_id = %s and not revoked order by id desc limit 1
"""
_LOWER = """
    with lowered as (
      update auth.sessions set aal = 'aal1', factor_id = null, updated_at = now() where factor_id = %(factor_id)s
      returning id
    )
    delete from auth.mfa_amr_claims
    where session_id in (select id from lowered) and authentication_method = %(method)s
"""
_SIGN_OUT: dict[Scope, LiteralString] = {
    "global": "delete from auth.sessions where user_id = %(user_id)s",
    "local": "delete from auth.sessions where user_id = %(user_id)s and id = %(session_id)s",
    "others": "delete from auth.sessions where user_id = %(user_id)s and id <> %(session_id)s",
}


@dataclass(frozen=True, slots=True)
class Session:
    """What an access token says of the sign-in it came from."""

    id: UUID
    user_id: UUID
    aal: str
    amr: list[dict[str, Any]]
    is_old: bool  # signed in more than a day ago

    @property
    def has_second_factor(self) -> bool:
        return self.aal == "aal2"


@dataclass(frozen=True, slots=True)
class Grant:
    """A session and the refresh token that continues it."""

    session: Session
    refresh_token: str


async def open_session(cursor: Cursor, user_id: UUID, *, method: str, user_agent: str | None) -> Grant:
    """Start a session for a user who has just proved who they are by `method`."""
    session_id, token = uuid4(), _new_token()
    await cursor.execute(
        _OPEN,
        {"id": session_id, "user_id": user_id, "method": method, "user_agent": user_agent, "token": token},
    )
    return await _grant(cursor, session_id, token)


async def find(cursor: Cursor, session_id: UUID) -> Session | None:
    await cursor.execute(_FIND, (session_id,))
    row = await cursor.fetchone()
    return Session(row["id"], row["user_id"], row["aal"] or "aal1", row["amr"], row["is_old"]) if row else None


async def rotate(cursor: Cursor, token: str) -> Grant | None:
    """Exchange a refresh token for the next one.

    A token that was used already answers with the live one if that is its own child (the client lost our reply) or
    if it was used less than `REUSE_SECONDS` ago (two tabs refreshed at once). Later it is a copy in other hands:
    every token of the session is revoked and None returned, which the caller must commit.

    Raises:
        AuthError: refresh_token_not_found or session_expired.
    """
    await cursor.execute(_LOCK_BY_TOKEN, (token,))
    session = await cursor.fetchone()
    # A statement of its own: it sees what the holder of the lock before us committed.
    await cursor.execute(_TOKENS, {"token": token, "reuse_seconds": REUSE_SECONDS})
    tokens = await cursor.fetchone()
    if session is None or tokens is None:
        raise AuthError(400, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found")
    if session["expired"]:
        raise AuthError(400, "session_expired", "Invalid Refresh Token: Session Expired")
    if not tokens["revoked"]:
        child = _new_token()
        await cursor.execute(_ROTATE, {"token": token, "child": child})
        return await _grant(cursor, session["id"], child)
    if tokens["live"] and tokens["may_return"]:
        return await _grant(cursor, session["id"], tokens["live"])
    await cursor.execute(_REVOKE_FAMILY, (session["id"],))
    return None


async def raise_level(cursor: Cursor, session: Session, *, factor_id: UUID, method: str) -> Grant:
    """Note that the session has shown a second factor, and give it the refresh token of its new level.

    The old token is used up by it, and the user's sessions without a second factor end.

    Raises:
        AuthError: session_not_found, it was signed out meanwhile.
    """
    await cursor.execute("select id from auth.sessions where id = %s for update", (session.id,))
    await cursor.execute(_LIVE_TOKEN, (session.id,))
    live = await cursor.fetchone()
    if live is None:
        raise AuthError(403, "session_not_found", "Session from session_id claim in JWT does not exist")
    child = _new_token()
    await cursor.execute(_ROTATE, {"token": live["token"], "child": child})
    await cursor.execute(
        _RAISE, {"id": session.id, "user_id": session.user_id, "factor_id": factor_id, "method": method}
    )
    return await _grant(cursor, session.id, child)


async def lower_level(cursor: Cursor, *, factor_id: UUID, method: str) -> None:
    """The factor is gone, and with it what sessions had shown by it."""
    await cursor.execute(_LOWER, {"factor_id": factor_id, "method": method})


async def sign_out(cursor: Cursor, user_id: UUID, *, session_id: UUID | None, scope: Scope) -> None:
    """End sessions of the user. A token that names no session can only end them all."""
    await cursor.execute(
        _SIGN_OUT["global" if session_id is None else scope], {"user_id": user_id, "session_id": session_id}
    )


async def _grant(cursor: Cursor, session_id: UUID, token: str) -> Grant:
    session = await find(cursor, session_id)
    if session is None:
        raise LookupError(f"session {session_id} is gone while its lock is held")
    return Grant(session, token)


def _new_token() -> str:
    return secrets.token_urlsafe(16)
