"""auth.one_time_tokens: what a mail carries, as a code to type and as a token in a link.

Both are one secret: the link's token is a keyed hash of address and code, and the table holds the hash of that. So a
copy of the database opens nothing, and there is one token of a type for a user: a newer mail ends the older one.
A token is deleted by the statement that finds it, so of two who use it at once one finds nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args
from uuid import UUID, uuid4

from local.auth.database import Cursor

TokenType = Literal[
    "confirmation_token",
    "recovery_token",
    "email_change_token_new",
    "email_change_token_current",
    "reauthentication_token",
]

EMAIL_CHANGE_TOKENS: tuple[TokenType, ...] = ("email_change_token_current", "email_change_token_new")
EVERY_TOKEN: tuple[TokenType, ...] = get_args(TokenType)
PKCE_PREFIX = "pkce_"  # marks the link of somebody who will exchange a code for the session
_LINK_DIGITS = 56  # of GoTrue's SHA-224 tokens, which some applications check the length of

_STORE = """
    insert into auth.one_time_tokens (id, user_id, token_type, token_hash, relates_to, created_at, updated_at)
    values (%(id)s, %(user_id)s, %(type)s, %(hash)s, %(address)s, now() at time zone 'utc', now() at time zone 'utc')
    on conflict (user_id, token_type) do update set
      id = excluded.id, token_hash = excluded.token_hash, relates_to = excluded.relates_to,
      created_at = excluded.created_at, updated_at = excluded.updated_at
"""
# The user before the token, as whoever sends a mail locks them.
_LOCK = """
    select id from auth.users where id in (
      select user_id from auth.one_time_tokens where token_hash = any(%(hashes)s) and token_type::text = any(%(types)s)
    )
    for update
"""
# Found by hash: how long a comparison takes says nothing about a value that the caller cannot choose.
_TAKE = """
    delete from auth.one_time_tokens
    where token_hash = any(%(hashes)s) and token_type::text = any(%(types)s)
      and created_at > (now() at time zone 'utc') - make_interval(secs => %(seconds)s)
    returning user_id, token_type::text as type, relates_to
"""
_DROP = "delete from auth.one_time_tokens where user_id = %s and token_type::text = any(%s)"


@dataclass(frozen=True, slots=True)
class Issued:
    """A new secret in its two forms. Nothing can show them again."""

    code: str
    link_token: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A token that was good. `address` is the one its mail went to."""

    user_id: UUID
    type: TokenType
    address: str


@dataclass(frozen=True, slots=True)
class OneTimeTokens:
    """Issue and take them. `key` is the stack's secret, without which codes cannot be tried against hashes."""

    key: str
    code_length: int
    lifetime_seconds: float

    async def issue(self, cursor: Cursor, user_id: UUID, token_type: TokenType, address: str, *, pkce: bool) -> Issued:
        """Make the user's token of this type; an earlier one is worth nothing then."""
        code = f"{secrets.randbelow(10**self.code_length):0{self.code_length}}"
        link_token = f"{PKCE_PREFIX if pkce else ''}{self._link_token(address, code)}"
        row = {"id": uuid4(), "user_id": user_id, "type": token_type, "address": address, "hash": _hash(link_token)}
        await cursor.execute(_STORE, row)
        return Issued(code, link_token)

    async def take_code(self, cursor: Cursor, address: str, code: str, types: Collection[TokenType]) -> Taken | None:
        """Use up the token of one of the types that was mailed to the address with this code."""
        link_token = self._link_token(address, code)
        return await self._take(cursor, [_hash(link_token), _hash(f"{PKCE_PREFIX}{link_token}")], types)

    async def take_link(self, cursor: Cursor, link_token: str, types: Collection[TokenType]) -> Taken | None:
        """Use up the token of one of the types that a link carries."""
        return await self._take(cursor, [_hash(link_token)], types)

    async def drop(self, cursor: Cursor, user_id: UUID, types: Collection[TokenType]) -> None:
        await cursor.execute(_DROP, (user_id, list(types)))

    async def _take(self, cursor: Cursor, hashes: list[str], types: Collection[TokenType]) -> Taken | None:
        values = {"hashes": hashes, "types": list(types), "seconds": self.lifetime_seconds}
        await cursor.execute(_LOCK, values)
        await cursor.execute(_TAKE, values)
        row = await cursor.fetchone()
        return Taken(row["user_id"], row["type"], row["relates_to"]) if row else None

    def _link_token(self, address: str, code: str) -> str:
        return hmac.new(self.key.encode(), f"{address}\n{code}".encode(), hashlib.sha256).hexdigest()[:_LINK_DIGITS]


def _hash(link_token: str) -> str:
    return hashlib.sha256(link_token.encode()).hexdigest()
