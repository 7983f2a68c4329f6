"""Who there is: people with personal accounts and organisations that they share.

One organisation has fewer places than its people want, one person may start little a minute, and one is always short
of credits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from psycopg import AsyncConnection

PEOPLE: Final = 6
ORGANISATIONS: Final = 2
PLENTY: Final = 10**13  # micro-credits
LITTLE: Final = 2_500  # micro-credits: a run or two of the one who is short
TIGHT_PLACES: Final = 12  # of the organisation that is at its limit
SLOW_A_MINUTE: Final = 20  # creates of the person who may do little a minute
_TIERS: Final = f"""
  insert into private.tiers values ('roomy', 1000, 4, 100000, 100000, 1000),
    ('tight', {TIGHT_PLACES}, 1, 100000, 100000, 1000), ('slow', 1000, 1, {SLOW_A_MINUTE}, {SLOW_A_MINUTE}, 1000)
"""


@dataclass(frozen=True, slots=True)
class Person:
    """A user and the accounts that he starts runs in."""

    id: UUID
    accounts: tuple[UUID, ...]


async def gather_crowd(url: str) -> list[Person]:
    """Sign everybody up. The last person's only account starts with little and gets little at a time."""
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(_TIERS)
        await connection.execute("alter table public.accounts alter column tier set default 'roomy'")
        await connection.execute("update private.settings set sign_up_credits = %s", [LITTLE])
        organisations = [await _organisation(connection) for _ in range(ORGANISATIONS)]
        people = [await _person(connection, organisations) for _ in range(PEOPLE - 2)]
        for account_id in {account_id for person in people for account_id in person.accounts}:
            await connection.execute("select public.grant_credits(%s, %s)", [account_id, PLENTY])
        await connection.execute("update public.accounts set tier = 'tight' where id = %s", [organisations[-1]])
        slow, short = await _person(connection, []), await _person(connection, [])
        await connection.execute("select public.grant_credits(%s, %s)", [slow.id, PLENTY])
        await connection.execute("update public.accounts set tier = 'slow' where id = %s", [slow.id])
        return [*people, slow, short]


async def _organisation(connection: AsyncConnection) -> UUID:
    account_id = uuid4()
    await connection.execute(
        "insert into public.accounts (id, kind, name) values (%s, 'organisation', 'Soak')", [account_id]
    )
    return account_id


async def _person(connection: AsyncConnection, organisations: list[UUID]) -> Person:
    user_id = uuid4()
    await connection.execute("insert into auth.users (id, email) values (%s, %s)", [user_id, f"{user_id}@soak.test"])
    for account_id in organisations:
        await connection.execute(
            "insert into public.account_members (account_id, user_id, role) values (%s, %s, 'member')",
            [account_id, user_id],
        )
    return Person(user_id, (user_id, *organisations))
