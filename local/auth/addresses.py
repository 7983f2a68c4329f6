"""What a user's e-mail address goes through: asked to confirm, confirmed, asked to change, changed.

The address that a user signs in with changes only by a confirmation, never by the request for it.
"""

from __future__ import annotations

from uuid import UUID

from psycopg.sql import SQL, Identifier

from local.auth import users
from local.auth.database import Cursor
from local.auth.errors import AuthError
from local.auth.outbox import Kind

_SENT_AT: dict[Kind, str] = {
    "signup": "confirmation_sent_at",
    "invite": "confirmation_sent_at",
    "magiclink": "recovery_sent_at",
    "recovery": "recovery_sent_at",
    "email_change": "email_change_sent_at",
    "reauthentication": "reauthentication_sent_at",
}
_WAIT = SQL("""
    select ceil(extract(epoch from {column} + make_interval(secs => %s) - now()))::int as wait
    from auth.users where id = %s for update
""")
_MARK_SENT = SQL("""
    update auth.users set {column} = now(), invited_at = case when %(invited)s then now() else invited_at end
    where id = %(id)s
""")
_CONFIRM = """
    with confirmed as (
      update auth.users set
        email_confirmed_at = coalesce(email_confirmed_at, now()),
        raw_user_meta_data = coalesce(raw_user_meta_data, '{}') || '{"email_verified": true}',
        updated_at = now()
      where id = %(id)s
      returning id, email
    )
    update auth.identities i set
      identity_data = i.identity_data || '{"email_verified": true}', updated_at = now()
    from confirmed c where i.user_id = c.id and i.email = c.email
"""
_ASK = """
    update auth.users set email_change = %(email)s, email_change_confirm_status = 0, updated_at = now()
    where id = %(id)s
"""
_CONFIRM_ONE = """
    update auth.users set email_change_confirm_status = 1, updated_at = now()
    where id = %(id)s and email_change_confirm_status = 0
"""
_CHANGE = """
    update auth.users set
      email = email_change, email_change = '', email_change_confirm_status = 0,
      email_confirmed_at = coalesce(email_confirmed_at, now()), is_anonymous = false,
      raw_user_meta_data = coalesce(raw_user_meta_data, '{}')
        || jsonb_build_object('email', email_change, 'email_verified', true),
      updated_at = now()
    where id = %(id)s and coalesce(email_change, '') <> ''
    returning email
"""
_PROVIDERS = """
    with present as (select distinct provider from auth.identities where user_id = %(id)s)
    update auth.users set raw_app_meta_data = coalesce(raw_app_meta_data, '{}') || jsonb_build_object(
      'provider', coalesce(
        (select provider from present where provider = raw_app_meta_data ->> 'provider'),
        (select min(provider) from present)
      ),
      'providers', (select jsonb_agg(provider order by provider) from present)
    )
    where id = %(id)s
"""


async def mark_sent(cursor: Cursor, user_id: UUID, kind: Kind, *, pause_seconds: float) -> None:
    """Note that a mail of this kind goes out now; it locks the user, so mails of one user come one by one.

    Raises:
        AuthError: 429 over_email_send_rate_limit, the last one is less than `pause_seconds` old.
    """
    column = Identifier(_SENT_AT[kind])
    await cursor.execute(_WAIT.format(column=column), (pause_seconds, user_id))
    row = await cursor.fetchone()
    if row and row["wait"] is not None and row["wait"] > 0:
        raise AuthError(
            429,
            "over_email_send_rate_limit",
            f"For security purposes, you can only request this after {row['wait']} seconds.",
        )
    await cursor.execute(_MARK_SENT.format(column=column), {"id": user_id, "invited": kind == "invite"})


async def confirm(cursor: Cursor, user_id: UUID) -> None:
    """The user has shown that the present address is theirs."""
    await cursor.execute(_CONFIRM, {"id": user_id})


async def ask_for_change(cursor: Cursor, user_id: UUID, email: str) -> None:
    """Note the address that the user wants."""
    await cursor.execute(_ASK, {"id": user_id, "email": email})


async def confirm_one_side(cursor: Cursor, user_id: UUID) -> bool:
    """Note the first of the two confirmations; False if it is the second."""
    await cursor.execute(_CONFIRM_ONE, {"id": user_id})
    return bool(cursor.rowcount)


async def change(cursor: Cursor, user_id: UUID) -> None:
    """Take the address over that was asked for. An anonymous user becomes a permanent one by it.

    Raises:
        EmailTaken: somebody else has it by now.
        AuthError: otp_expired, nothing was asked for (any more).
    """
    with users.naming_what_is_taken():
        await cursor.execute(_CHANGE, {"id": user_id})
    row = await cursor.fetchone()
    if row is None:
        raise AuthError(403, "otp_expired", "Email link is invalid or has expired")
    await users.write_email_identity(cursor, user_id, row["email"], verified=True)
    await cursor.execute(_PROVIDERS, {"id": user_id})


async def list_providers(cursor: Cursor, user_id: UUID) -> None:
    """Have app_metadata name the providers of the identities that the user has now."""
    await cursor.execute(_PROVIDERS, {"id": user_id})
