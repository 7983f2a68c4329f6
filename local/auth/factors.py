"""auth.mfa_factors and auth.mfa_challenges: what a user can prove besides a password, and the questions asked for it.

A challenge is answered once, from the address that asked for it, and soon. Whoever changes a factor or its challenges
holds the lock on the factor's row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from local.auth.database import Cursor
from local.auth.times import times

_ABANDONED_SECONDS = 300  # GoTrue's age of a factor that was begun and never challenged

_FORGET = """
    delete from auth.mfa_factors f where f.user_id = %s and f.status = 'unverified'
      and f.created_at < now() - make_interval(secs => %s)
      and not exists (select from auth.mfa_challenges c where c.factor_id = f.id)
"""
_INSERT = """
    insert into auth.mfa_factors (id, user_id, friendly_name, factor_type, status, secret, created_at, updated_at)
    values (%(id)s, %(user_id)s, %(name)s, 'totp', 'unverified', %(secret)s, now(), now())
"""
_CHALLENGE = """
    with asked as (
      update auth.mfa_factors set last_challenged_at = now() where id = %(factor_id)s
    )
    insert into auth.mfa_challenges (id, factor_id, ip_address, created_at)
    values (%(id)s, %(factor_id)s, %(address)s, now())
    returning id, extract(epoch from created_at)::float8 as asked_at
"""
_FIND_CHALLENGE = """
    select id, verified_at is not null as answered, host(ip_address) as address,
      created_at + make_interval(secs => %(seconds)s) < now() as expired
    from auth.mfa_challenges where id = %(id)s and factor_id = %(factor_id)s
"""
_VERIFY = """
    with answered as (
      update auth.mfa_challenges set verified_at = now() where id = %(challenge_id)s
    )
    update auth.mfa_factors set status = 'verified', updated_at = now() where id = %(factor_id)s
"""
_FORGET_OTHERS = """
    delete from auth.mfa_factors where user_id = %s and factor_type::text = %s and status = 'unverified'
"""


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor as stored. `body` is what its user and the service role may see of it."""

    id: UUID
    user_id: UUID
    type: str
    name: str
    is_verified: bool
    secret: str = field(repr=False)
    body: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """A new challenge; `at` in seconds since 1970."""

    id: UUID
    at: float


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge that somebody tries to answer."""

    id: UUID
    address: str
    is_answered: bool
    is_expired: bool


def factor_body(row: dict[str, Any]) -> dict[str, Any]:
    """The factor as GoTrue shows it; the secret is only told when it is made."""
    challenged_at = row["last_challenged_at"]
    return {
        "id": str(row["id"]),
        **times(row, ("created_at", "updated_at")),
        "status": row["status"],
        **({"friendly_name": row["friendly_name"]} if row["friendly_name"] else {}),
        "factor_type": row["factor_type"],
        "phone": row["phone"],
        "last_challenged_at": times(row, ("last_challenged_at",))["last_challenged_at"] if challenged_at else None,
    }


async def list_of(cursor: Cursor, user_id: UUID) -> list[Factor]:
    """The user's factors, oldest first, without those that were begun and left."""
    await cursor.execute(_FORGET, (user_id, _ABANDONED_SECONDS))
    await cursor.execute("select * from auth.mfa_factors where user_id = %s order by created_at, id", (user_id,))
    return [_factor(row) for row in await cursor.fetchall()]


async def find(cursor: Cursor, user_id: UUID, factor_id: UUID) -> Factor | None:
    """The user's own factor, locked until the transaction ends."""
    await cursor.execute(
        "select * from auth.mfa_factors where id = %s and user_id = %s for update", (factor_id, user_id)
    )
    row = await cursor.fetchone()
    return _factor(row) if row else None


async def add_totp(cursor: Cursor, user_id: UUID, *, name: str, secret: str) -> UUID:
    """Store a factor that counts once its first code has been right."""
    factor_id = uuid4()
    await cursor.execute(_INSERT, {"id": factor_id, "user_id": user_id, "name": name, "secret": secret})
    return factor_id


async def rename(cursor: Cursor, factor_id: UUID, name: str) -> None:
    await cursor.execute(
        "update auth.mfa_factors set friendly_name = %s, updated_at = now() where id = %s", (name, factor_id)
    )


async def delete(cursor: Cursor, factor_id: UUID) -> None:
    await cursor.execute("delete from auth.mfa_factors where id = %s", (factor_id,))


async def ask(cursor: Cursor, factor_id: UUID, *, address: str) -> Asked:
    """Make a challenge for whoever calls from the address."""
    await cursor.execute(_CHALLENGE, {"id": uuid4(), "factor_id": factor_id, "address": address})
    row = await cursor.fetchone()
    if row is None:
        raise LookupError(f"the challenge of factor {factor_id} was not stored")
    return Asked(row["id"], row["asked_at"])


async def find_challenge(
    cursor: Cursor, factor_id: UUID, challenge_id: UUID, *, lifetime_seconds: float
) -> Challenge | None:
    await cursor.execute(_FIND_CHALLENGE, {"id": challenge_id, "factor_id": factor_id, "seconds": lifetime_seconds})
    row = await cursor.fetchone()
    return Challenge(row["id"], row["address"], row["answered"], row["expired"]) if row else None


async def verify(cursor: Cursor, factor: Factor, challenge_id: UUID) -> None:
    """The challenge was answered rightly. Others of the type that were begun and not finished are forgotten."""
    await cursor.execute(_VERIFY, {"challenge_id": challenge_id, "factor_id": factor.id})
    await cursor.execute(_FORGET_OTHERS, (factor.user_id, factor.type))


def _factor(row: dict[str, Any]) -> Factor:
    return Factor(
        id=row["id"],
        user_id=row["user_id"],
        type=row["factor_type"],
        name=row["friendly_name"] or "",
        is_verified=row["status"] == "verified",
        secret=row["secret"] or "",
        body=factor_body(row),
    )
