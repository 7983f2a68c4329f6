"""Who is listening, and what the policies on `realtime.messages` let them hear and say.

Policies are asked, never interpreted: a probe row is written as the administrator, read (or written) as the listener,
and rolled back. The answer holds until the listener shows a new token.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

import orjson
import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import TupleRow

from local.keys import InvalidToken, Keys, claims_text
from local.realtime.database import SEARCH_PATH, is_away
from local.services import Pool

Extension = Literal["broadcast", "presence"]

# A token may name any role; the ones it may take on are those that PostgREST could take on too.
_IMPERSONATE: LiteralString = """
select set_config('role', %(role)s, true), set_config('request.jwt.claims', %(claims)s, true),
       set_config('request.jwt.claim.sub', %(sub)s, true), set_config('request.jwt.claim.role', %(role)s, true),
       set_config('search_path', %(search_path)s, true)
from pg_catalog.pg_roles r
where r.rolname = %(role)s and pg_has_role('authenticator', r.oid, 'member')
"""

_log = logging.getLogger("local.realtime")


class Refused(Exception):  # noqa: N818 - reads as what it says
    """Not allowed. The message is `Code: text`, as Supabase's Realtime words it, and fit to be sent.

    A join is refused with all of it; a channel that ends is told the text alone.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.text = text


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a token stands for. `claims` is JSON text with its keys sorted, so that equal claims are equal."""

    role: str
    sub: str
    claims: str
    expires_at: int  # Unix time


@dataclass(frozen=True, slots=True)
class Access:
    """What a listener may hear on a private topic."""

    broadcast: bool
    presence: bool


def identify(keys: Keys, token: str | None) -> Identity:
    """The identity behind a JWT.

    Raises:
        Refused: no token of ours, or one that cannot be used here.
    """
    try:
        claims = keys.verify_jwt(token or "", leeway_seconds=0)
    except InvalidToken as exc:
        match exc.reason:
            case "expired":
                raise Refused("InvalidJWTToken", expired(exc.expired_at)) from exc
            case "signature":
                raise Refused("JwtSignatureError", "Failed to validate JWT signature") from exc
            case _:
                raise Refused("MalformedJWT", "The token provided is not a valid JWT") from exc
    role, expires_at = claims.get("role"), claims.get("exp")
    if not isinstance(role, str) or not isinstance(expires_at, int):
        raise Refused("InvalidJWTToken", "Fields `role` and `exp` are required in JWT")
    return Identity(role, str(claims.get("sub", "")), claims_text(claims), expires_at)


def expired(at: int) -> str:
    """What is said of a token that ended then, Unix time."""
    return f"Token has expired {max(int(time.time()) - at, 0)} seconds ago"


async def impersonate(connection: AsyncConnection[TupleRow], identity: Identity) -> None:
    """Take on the identity for the rest of the transaction.

    Raises:
        Refused: there is no such role for a token to take on.
    """
    if not has_become(await become(connection, identity)):
        raise Refused("Unauthorized", f"role {identity.role!r} does not exist")


async def become(connection: AsyncConnection[TupleRow], identity: Identity) -> AsyncCursor[TupleRow]:
    """Take on the identity, in a pipeline too: `has_become` tells later whether that came about. If it did not, what
    was asked after it was asked as somebody else.
    """
    return await connection.execute(
        _IMPERSONATE,
        {"role": identity.role, "sub": identity.sub, "claims": identity.claims, "search_path": SEARCH_PATH},
    )


def has_become(cursor: AsyncCursor[TupleRow]) -> bool:
    return cursor.rowcount == 1


class Authorizer:
    """Asks the policies on `realtime.messages`."""

    def __init__(self, admin_pool: Pool) -> None:
        self._pool = admin_pool

    async def read_access(
        self, identity: Identity, topic: str, headers: Mapping[str, str], *, presence: bool
    ) -> Access:
        """What the identity may hear on the private topic. Of presence only a channel that wants it is asked.

        Raises:
            Refused: nothing at all.
            psycopg.OperationalError: the database is away.
        """
        extensions: list[Extension] = ["broadcast", "presence"] if presence else ["broadcast"]
        try:
            readable = await self._readable(identity, topic, headers, extensions)
        except psycopg.Error as exc:
            if is_away(exc):
                raise
            _log.warning("realtime.read_policy_failed topic=%s error=%s", topic, str(exc).strip())
            readable = set[str]()
        if not readable:
            raise Refused("Unauthorized", f"You do not have permissions to read from this Channel topic: {topic}")
        return Access(broadcast="broadcast" in readable, presence="presence" in readable)

    async def may_write(self, identity: Identity, topic: str, extension: Extension, headers: Mapping[str, str]) -> bool:
        """Whether the identity may say something on the private topic.

        Raises:
            psycopg.OperationalError: the database is away.
        """
        try:
            async with self._pool.connection() as connection, connection.transaction(force_rollback=True):
                await self._ask_as(connection, identity, topic, headers)
                await connection.execute(
                    "insert into realtime.messages (topic, extension, private) values (%s, %s, true)",
                    [topic, extension],
                )
        except (psycopg.errors.InsufficientPrivilege, Refused):
            return False
        except psycopg.Error as exc:
            if is_away(exc):
                raise
            _log.warning("realtime.write_policy_failed topic=%s error=%s", topic, str(exc).strip())
            return False
        return True

    async def _readable(
        self, identity: Identity, topic: str, headers: Mapping[str, str], extensions: list[Extension]
    ) -> set[str]:
        async with self._pool.connection() as connection, connection.transaction(force_rollback=True):
            await connection.execute(
                "insert into realtime.messages (topic, extension, private)"
                " select %s, extension, true from unnest(%s::text[]) as extension",
                [topic, extensions],
            )
            await self._ask_as(connection, identity, topic, headers)
            # The row's time bounds the search to this transaction's own rows, whatever else the topic holds.
            cursor = await connection.execute(
                "select distinct extension from realtime.messages where topic = %s and inserted_at = now()", [topic]
            )
            return {row[0] for row in await cursor.fetchall()}

    async def _ask_as(
        self, connection: AsyncConnection[Any], identity: Identity, topic: str, headers: Mapping[str, str]
    ) -> None:
        await connection.execute(
            "select set_config('realtime.topic', %s, true), set_config('request.headers', %s, true)",
            [topic, orjson.dumps(dict(headers)).decode()],
        )
        await impersonate(connection, identity)
