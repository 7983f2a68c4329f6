"""A queue of any length at once: rows as `queue_run` and `take_places` leave them when runs are started one by one.

Every account gets as many runs; the first of each have its places and are in the fair order, the others are held.
Triggers are off while the rows are written, so what they would have done is written too. A test holds that the two ways
agree.
"""

from __future__ import annotations

from psycopg import AsyncConnection

TIER = "crowd"
PLACES = 25  # runs of an account that go on at a time, as in the free tier
ENGINE = "bench"
_TAG = 1_000_000  # a share of one moves the account's next tag on by so much
_HOLD = 1_000_000  # private.settings.hold_credits

_TIER = """
    insert into private.tiers values (%(tier)s, %(places)s, 1, 100000000, 100000000, 100000000)
    on conflict do nothing
"""
_ACCOUNTS = """
    with account as (
      insert into public.accounts (kind, tier, name)
        select 'personal', %(tier)s, 'Tenant ' || n from generate_series(1, %(accounts)s) n returning id
    ), credit as (
      insert into public.credit_accounts (account_id, available, held)
        select a.id, 1000000000000, %(each)s::bigint * %(hold)s from account a
    )
    insert into private.slots (account_id, kind, key, taken, fair_tag)
      select a.id, 'account', '', least(%(each)s, %(places)s), least(%(each)s, %(places)s)::bigint * %(tag)s
      from account a
"""
# Round by round over the accounts, as they would come if all started runs all the time.
_RUNS = """
    with run as (
      insert into public.agent_runs (account_id, engine, status, revision, available_at, started_at, deadline_at,
          credits_held, log_seq, broadcast_seq, broadcast_at, slot_ids, fair_tag, held_for)
        select s.account_id, %(engine)s, 'queued', 2, c.now, c.now, c.now + interval '1 hour', %(hold)s, 1, 1, c.now,
          array[s.id], case when n < %(places)s then n::bigint * %(tag)s end,
          case when n < %(places)s then 0 else s.id end
        from generate_series(0, %(each)s - 1) n, private.slots s, (select private.clock() as now) c
        order by n, s.id
        returning id, account_id
    ), line as (
      insert into public.agent_task_logs (run_id, seq, account_id, log_type, message, metadata)
        select r.id, 1, r.account_id, 'state_transition', 'created -> queued',
          '{"from": "created", "to": "queued"}' from run r
    )
    insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount)
      select r.account_id, r.id, 'hold', 'available', 'held', %(hold)s from run r
"""
_NEW = """
    insert into public.agent_runs (account_id, engine)
      select account_id, %(engine)s from unnest(%(accounts)s::uuid[]) as a (account_id) returning id
"""
_BROKEN = """
    with account as (
      select r.account_id, count(*) filter (where r.held_for = 0) as goes_on,
        count(*) filter (where r.held_for > 0) as held
      from public.agent_runs r group by r.account_id
    )
    select count(*) from private.slots s left join account a on a.account_id = s.account_id
      where s.taken <> coalesce(a.goes_on, 0) or (a.held > 0 and s.taken < %(places)s)
"""


async def fill(connection: AsyncConnection, *, accounts: int, runs: int) -> None:
    """Make accounts and queue runs of theirs, as many each, in an empty database. The connection is a superuser's."""
    if runs % accounts:
        raise ValueError("every account has as many runs")
    values = {"tier": TIER, "places": PLACES, "accounts": accounts, "each": runs // accounts, "engine": ENGINE,
        "tag": _TAG, "hold": _HOLD}  # fmt: skip
    async with connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        for statement in (_TIER, _ACCOUNTS, _RUNS):
            await connection.execute(statement, values)
    await assert_places(connection)
    await connection.execute("vacuum (analyze)")
    await connection.execute("checkpoint")


async def queue_more(connection: AsyncConnection, account_ids: list[str]) -> None:
    """Queue a run for each of these accounts in the proper way."""
    async with connection.transaction():
        cursor = await connection.execute(_NEW, {"engine": ENGINE, "accounts": account_ids})
        ids = [row[0] for row in await cursor.fetchall()]
        await connection.execute("select private.queue_run(r) from public.agent_runs r where r.id = any (%s)", [ids])


async def assert_places(connection: AsyncConnection) -> None:
    """Raise unless what is taken is what the rows say, and nobody is held beside an empty place."""
    row = await (await connection.execute(_BROKEN, {"places": PLACES})).fetchone()
    if row != (0,):
        raise AssertionError(f"{row} slots are wrong")
