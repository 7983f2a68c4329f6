"""auth.users and auth.identities: one user, read and written as a whole.

A user is always read with the identities it signs in by and its second factors, and always read again after a write:
triggers may have changed the row.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb

from local.auth.database import Cursor
from local.auth.factors import factor_body
from local.auth.times import times

AUDIENCE = "authenticated"
_TIMES = (
    "email_confirmed_at", "phone_confirmed_at", "confirmed_at", "last_sign_in_at", "created_at", "updated_at",
    "banned_until", "deleted_at", "invited_at", "confirmation_sent_at", "recovery_sent_at", "email_change_sent_at",
    "reauthentication_sent_at",
)  # fmt: skip

Metadata = dict[str, Any]

_SELECT = """
    select u.*,
      coalesce(
        (select jsonb_agg(to_jsonb(i) order by i.created_at, i.id) from auth.identities i where i.user_id = u.id), '[]'
      ) as identities,
      coalesce(
        (select jsonb_agg(to_jsonb(f) order by f.created_at, f.id) from auth.mfa_factors f where f.user_id = u.id), '[]'
      ) as factors,
      coalesce(u.banned_until > now(), false) as banned
    from auth.users u
"""
_FILTER = """
    where %(part)s::text = '' or strpos(u.email, %(part)s) > 0
      or strpos(lower(u.raw_user_meta_data ->> 'full_name'), lower(%(part)s)) > 0
"""
_COUNT = f"select count(*) as total from auth.users u {_FILTER}"  # noqa: S608 - both parts are ours
_INSERT = """
    insert into auth.users (
      instance_id, id, aud, role, email, encrypted_password, email_confirmed_at, banned_until,
      raw_app_meta_data, raw_user_meta_data, is_anonymous, created_at, updated_at,
      confirmation_token, recovery_token, email_change_token_new, email_change
    ) values (
      '00000000-0000-0000-0000-000000000000', %(id)s, %(aud)s, %(role)s, %(email)s, %(password_hash)s,
      case when %(confirmed)s then now() end, now() + make_interval(secs => %(ban_seconds)s::float8),
      %(app_metadata)s, %(user_metadata)s, %(is_anonymous)s, now(), now(), '', '', '', ''
    )
"""
_UPDATE = """
    update auth.users set
      email = coalesce(%(email)s, email),
      encrypted_password = coalesce(%(password_hash)s, encrypted_password),
      role = coalesce(%(role)s, role),
      email_confirmed_at = case when %(confirm)s then coalesce(email_confirmed_at, now()) else email_confirmed_at end,
      is_anonymous = is_anonymous and (not %(confirm)s or coalesce(%(email)s, email) is null),
      banned_until = case
        when %(ban_seconds)s::float8 is null then banned_until
        when %(ban_seconds)s::float8 > 0 then now() + make_interval(secs => %(ban_seconds)s)
      end,
      raw_user_meta_data = (coalesce(raw_user_meta_data, '{}') || %(user_set)s) - %(user_drop)s::text[],
      raw_app_meta_data = (coalesce(raw_app_meta_data, '{}') || %(app_set)s) - %(app_drop)s::text[],
      updated_at = now()
    where id = %(id)s
"""
_EMAIL_IDENTITY = """
    insert into auth.identities (provider_id, user_id, identity_data, provider, last_sign_in_at, created_at, updated_at)
    values (%(id)s::text, %(id)s, %(data)s, 'email', now(), now(), now())
    on conflict (provider_id, provider) do update
      set identity_data = identities.identity_data || excluded.identity_data, updated_at = now()
"""
# The address is freed for a new user, and what is left of the old one names nobody.
_SOFT_DELETE = """
    with hidden as (
      update auth.users set
        email = encode(sha256(convert_to(id::text || coalesce(email, ''), 'utf8')), 'hex'),
        encrypted_password = '', raw_user_meta_data = '{}', raw_app_meta_data = '{}',
        deleted_at = now(), updated_at = now()
      where id = %(id)s and deleted_at is null
      returning id
    ), signed_out as (
      delete from auth.sessions where user_id in (select id from hidden)
    ), without_factors as (
      delete from auth.mfa_factors where user_id in (select id from hidden)
    )
    delete from auth.identities where user_id in (select id from hidden)
"""


class EmailTaken(Exception):  # noqa: N818 - reads as what it says
    """Another user has this e-mail address."""


class IdTaken(Exception):  # noqa: N818 - reads as what it says
    """Another user has this id."""


@dataclass(frozen=True, slots=True)
class User:
    """A user as stored. `to_body` is what a client may see of it."""

    id: UUID
    role: str
    email: str | None
    new_email: str | None  # asked for and not confirmed yet
    password_hash: str | None
    is_anonymous: bool
    is_banned: bool
    is_confirmed: bool
    is_invited: bool
    has_mfa: bool  # has a second factor that is verified
    app_metadata: Metadata
    user_metadata: Metadata
    body: dict[str, Any] = field(repr=False)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> User:
        return cls(
            id=row["id"],
            role=row["role"] or "",
            email=row["email"],
            new_email=row["email_change"] or None,
            password_hash=row["encrypted_password"],
            is_anonymous=row["is_anonymous"],
            is_banned=row["banned"],
            is_confirmed=row["email_confirmed_at"] is not None,
            is_invited=row["invited_at"] is not None,
            has_mfa=any(factor["status"] == "verified" for factor in row["factors"]),
            app_metadata=row["raw_app_meta_data"] or {},
            user_metadata=row["raw_user_meta_data"] or {},
            body=_body(row),
        )


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user to be stored; without an e-mail address it is an anonymous one."""

    email: str | None = None
    password_hash: str | None = None
    confirmed: bool = False
    role: str = AUDIENCE
    ban_seconds: float = 0
    id: UUID = field(default_factory=uuid4)
    app_metadata: Metadata = field(default_factory=dict[str, Any])
    user_metadata: Metadata = field(default_factory=dict[str, Any])
    identity_data: Metadata = field(default_factory=dict[str, Any])  # besides the address


@dataclass(frozen=True, slots=True)
class UserChange:
    """What to write over a user; None leaves as it is, and a None inside metadata drops that key.

    `ban_seconds` 0 lifts a ban. To confirm the address makes an anonymous user a permanent one.
    """

    email: str | None = None
    password_hash: str | None = None
    confirm: bool = False
    role: str | None = None
    ban_seconds: float | None = None
    app_metadata: Metadata = field(default_factory=dict[str, Any])
    user_metadata: Metadata = field(default_factory=dict[str, Any])


async def insert(cursor: Cursor, new: NewUser) -> None:
    """Store a user, with an e-mail identity if it has an address.

    Raises:
        EmailTaken, IdTaken: it is another user's.
    """
    with naming_what_is_taken():
        await cursor.execute(
            _INSERT,
            {
                "id": new.id,
                "aud": AUDIENCE,
                "role": new.role,
                "email": new.email,
                "password_hash": new.password_hash,
                "confirmed": new.confirmed,
                "ban_seconds": new.ban_seconds or None,
                "app_metadata": Jsonb(new.app_metadata),
                "user_metadata": Jsonb(new.user_metadata),
                "is_anonymous": new.email is None,
            },
        )
    if new.email is not None:
        await write_email_identity(cursor, new.id, new.email, verified=False, data=new.identity_data)


async def update(cursor: Cursor, user_id: UUID, change: UserChange) -> None:
    """Write `change` over the user.

    Raises:
        EmailTaken: the address is another user's.
    """
    with naming_what_is_taken():
        await cursor.execute(
            _UPDATE,
            {
                "id": user_id,
                "email": change.email,
                "password_hash": change.password_hash,
                "role": change.role,
                "confirm": change.confirm,
                "ban_seconds": change.ban_seconds,
                "user_set": Jsonb(_present(change.user_metadata)),
                "user_drop": _dropped(change.user_metadata),
                "app_set": Jsonb(_present(change.app_metadata)),
                "app_drop": _dropped(change.app_metadata),
            },
        )
    if change.email is not None:
        await write_email_identity(cursor, user_id, change.email, verified=change.confirm)


async def find(cursor: Cursor, user_id: UUID) -> User | None:
    await cursor.execute(f"{_SELECT} where u.id = %s", (user_id,))
    row = await cursor.fetchone()
    return User.from_row(row) if row else None


async def find_by_email(cursor: Cursor, email: str) -> User | None:
    await cursor.execute(f"{_SELECT} where u.email = %s and not u.is_sso_user", (email,))
    row = await cursor.fetchone()
    return User.from_row(row) if row else None


async def find_page(
    cursor: Cursor, *, limit: int, offset: int, oldest_first: bool = False, filtered_by: str = ""
) -> tuple[list[User], int]:
    """Users, newest first unless told otherwise, and how many there are in all.

    `filtered_by` is part of an address, or (in any case) of the `full_name` in a user's metadata.
    """
    direction = "asc" if oldest_first else "desc"
    values = {"limit": limit, "offset": offset, "part": filtered_by}
    await cursor.execute(
        f"{_SELECT} {_FILTER} order by u.created_at {direction}, u.id limit %(limit)s offset %(offset)s", values
    )
    found = [User.from_row(row) for row in await cursor.fetchall()]
    await cursor.execute(_COUNT, values)
    row = await cursor.fetchone()
    return found, row["total"] if row else 0


async def delete(cursor: Cursor, user_id: UUID, *, soft: bool) -> None:
    """Remove the user and all that hangs on it, or (soft) keep a nameless row that foreign keys may point to."""
    if soft:
        await cursor.execute(_SOFT_DELETE, {"id": user_id})
    else:
        await cursor.execute("delete from auth.users where id = %s", (user_id,))


@contextmanager
def naming_what_is_taken() -> Generator[None]:
    """Turn a violated key of auth.users into EmailTaken or IdTaken.

    A unique key of some other table is violated by a project's own trigger, and is not ours to explain.
    """
    try:
        yield
    except UniqueViolation as exc:
        if exc.diag.constraint_name == "users_email_partial_key":
            raise EmailTaken from exc
        if exc.diag.constraint_name == "users_pkey":
            raise IdTaken from exc
        raise


async def write_email_identity(
    cursor: Cursor, user_id: UUID, email: str, *, verified: bool, data: Metadata | None = None
) -> None:
    """Have the user sign in by this address."""
    about = {"sub": str(user_id), "email": email, "email_verified": verified, "phone_verified": False}
    await cursor.execute(_EMAIL_IDENTITY, {"id": user_id, "data": Jsonb({**(data or {}), **about})})


def _present(metadata: Metadata) -> Metadata:
    return {key: value for key, value in metadata.items() if value is not None}


def _dropped(metadata: Metadata) -> list[str]:
    return [key for key, value in metadata.items() if value is None]


def _body(row: dict[str, Any]) -> dict[str, Any]:
    """The user object of every reply. Times that never were are left out, as GoTrue leaves them out."""
    return {
        "id": str(row["id"]),
        "aud": row["aud"] or "",
        "role": row["role"] or "",
        "email": row["email"] or "",
        "phone": row["phone"] or "",
        "app_metadata": row["raw_app_meta_data"] or {},
        "user_metadata": row["raw_user_meta_data"] or {},
        "identities": [_identity_body(identity) for identity in row["identities"]],
        "is_anonymous": row["is_anonymous"],
        **({"factors": [factor_body(factor) for factor in row["factors"]]} if row["factors"] else {}),
        **({"new_email": row["email_change"]} if row["email_change"] else {}),
        **times(row, _TIMES),
    }


def _identity_body(identity: dict[str, Any]) -> dict[str, Any]:
    return {
        "identity_id": identity["id"],
        "id": identity["provider_id"],
        "user_id": identity["user_id"],
        "identity_data": identity["identity_data"],
        "provider": identity["provider"],
        "email": identity["email"] or "",
        **times(identity, ("last_sign_in_at", "created_at", "updated_at")),
    }
