"""A database with a crowd in it: many queued runs of many accounts, and much that other runs have recorded.

Written with bulk statements, as the functions would have left it. One account, the person's, has half of the queue.
"""

from __future__ import annotations

from psycopg import AsyncClientCursor, AsyncConnection

from tests.runs.queueing import assert_places_are_right
from tests.support.runs import Person

EXPIRED = 20
"""Runs whose worker was lost, whatever the size of the crowd; as many timers are due and as many deadlines are over."""

_CROWD = f"""
create temporary table size on commit drop as
  select %(runs)s::integer as runs, greatest(10, %(runs)s / 50) as accounts, {EXPIRED} as few;

insert into auth.users (id, email)
  select u.id, u.id || '@example.com'
  from (select gen_random_uuid() as id from generate_series(1, (select accounts from size))) u;
insert into private.slots (account_id, kind, key)
  select a.id, 'account', '' from public.accounts a on conflict do nothing;
create temporary table member on commit drop as
  select a.id, s.id as slot_id, s.taken, row_number() over (order by a.id <> %(person)s, a.id) as place
  from public.accounts a join private.slots s on s.account_id = a.id and s.kind = 'account';

insert into public.agents (account_id, name) select m.id, 'Agent' from member m;

-- The queue: every second run is the person's.
insert into public.agent_runs (account_id, user_id, engine, status, started_at, available_at, deadline_at, created_at,
    slot_ids, held_for, fair_tag)
  select q.account_id, q.account_id, 'list', 'queued', now(), now(), now() + interval '1 hour',
    now() - q.n * interval '1 ms', array[q.slot_id], case when q.rank <= 25 - q.taken then 0 else q.slot_id end,
    case when q.rank <= 25 - q.taken then q.rank * 1000000 end
  from (
    select g.n, m.id as account_id, m.slot_id, m.taken, row_number() over (partition by m.id order by g.n) as rank
    from generate_series(1, (select runs from size)) as g (n)
    join member m on m.place = case when g.n %% 2 = 0 then 1 else 2 + g.n / 2 %% ((select count(*) from member) - 1) end
  ) q;
-- Runs that sleep, few of them over.
insert into public.agent_runs (account_id, engine, status, started_at, available_at, deadline_at, slot_ids)
  select m.id, 'list', 'queued', now(),
    now() + case when g.n <= (select few from size) then '-1 s' else g.n * interval '1 min' end,
    now() + interval '10 years', array[m.slot_id]
  from generate_series(1, (select runs / 5 from size)) as g (n)
  join member m on m.place = 2 + g.n %% ((select count(*) from member) - 1);
-- Few whose worker was lost, and few that are late. They have no account's places: those are the queue's.
insert into public.agent_runs (account_id, engine, status, started_at, available_at, deadline_at, slot_ids, held_for,
    fair_tag, lease_id, lease_owner, lease_expires_at)
  select m.id, 'list', 'executing', now(), 'infinity', now() + interval '1 hour', array[m.slot_id], 0, 0,
    gen_random_uuid(), 'lost', now() - interval '1 s'
  from generate_series(1, (select few from size)) as g (n) join member m on m.place = 2 + g.n %% 8;
insert into public.agent_runs (account_id, engine, status, started_at, deadline_at)
  select m.id, 'list', 'awaiting_input', now(), now() - interval '1 s'
  from generate_series(1, (select few from size)) as g (n) join member m on m.place = 2 + g.n %% 8;
-- History, and what it recorded.
insert into public.agent_runs (account_id, engine, status, started_at, finished_at, created_at)
  select m.id, 'list', 'completed', now(), now(), now() - g.n * interval '1 min'
  from generate_series(1, (select runs from size)) as g (n)
  join member m on m.place = 1 + g.n %% (select count(*) from member);
insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, status, effect, effect_key,
    timeout_seconds)
  select r.id, 1, r.account_id, 's1', 'test', 'Step', 'completed', 'pure', gen_random_uuid(), 60
  from public.agent_runs r where r.status = 'completed';
insert into public.agent_task_logs (run_id, seq, account_id, log_type, message)
  select r.id, 1, r.account_id, 'info', 'Hello' from public.agent_runs r where r.status = 'completed';
insert into public.agent_messages (run_id, account_id, step_no, role, content)
  select r.id, r.account_id, 1, 'user', '[]' from public.agent_runs r where r.status = 'completed';
insert into public.agent_plans (run_id, number, account_id, step_no, goal, phases)
  select r.id, 1, r.account_id, 1, 'Goal', '[]' from public.agent_runs r where r.status = 'completed';
insert into public.agent_artifacts (run_id, account_id, step_no, name, content_type, content, size_bytes)
  select r.id, r.account_id, 1, 'a', 'text/plain', '', 0 from public.agent_runs r where r.status = 'completed';
insert into public.human_requests (run_id, account_id, step_no, kind, prompt, status)
  select r.id, r.account_id, 1, 'question', 'What?', 'answered' from public.agent_runs r where r.status = 'completed';
insert into private.step_deltas (run_id, step_no, attempt, text_offset, text)
  select r.id, 1, 1, 0, 'Hello' from public.agent_runs r where r.status = 'completed';
insert into private.run_snapshots (run_id, revision, version, step_count, open_steps, kept_steps, state)
  select r.id, 1, 1, 1, '{{}}', '{{}}', '{{}}' from public.agent_runs r where r.status = 'completed';
insert into private.idempotency_keys (account_id, action, key, fingerprint)
  select r.account_id, 'create', r.id::text, '' from public.agent_runs r where r.status = 'completed';
insert into private.rate_limits (account_id, action, full_at) select m.id, 'start', now() from member m
  on conflict do nothing;
insert into public.credit_ledger (account_id, run_id, kind, debit, credit, amount)
  select r.account_id, r.id, 'hold', 'available', 'held', 1 from public.agent_runs r where r.status = 'completed';

update private.slots s set taken = n.taken, fair_tag = n.fair_tag
  from (
    select r.slot_ids[1] as id, count(*) as taken, max(r.fair_tag) + 1000000 as fair_tag
    from public.agent_runs r where r.held_for = 0 group by 1
  ) n
  where n.id = s.id;
"""

_HISTORY = """
with run as (
  insert into public.agent_runs (account_id, engine, status, started_at, finished_at)
    select gen_random_uuid(), 'list', 'completed', now(), now() from generate_series(1, %s) returning id, account_id
), step as (
  insert into public.agent_steps (run_id, step_no, account_id, key, kind, name, status, effect, effect_key,
      timeout_seconds)
    select id, 1, account_id, 's1', 'test', 'Step', 'completed', 'pure', gen_random_uuid(), 60 from run
)
insert into public.agent_task_logs (run_id, seq, account_id, log_type, message)
  select id, 1, account_id, 'info', '' from run
"""


async def history(url: str, runs: int) -> None:
    """Put so many runs that have ended into the database, by nothing that makes another session plan anew."""
    async with await AsyncConnection.connect(url) as connection:
        await connection.execute(_HISTORY, [runs])


async def crowd(url: str, person: Person, runs: int) -> None:
    """Put so many queued runs into the database, and in proportion to them what the tables hold besides."""
    # Client-side parameters: only so may one call hold many statements.
    async with await AsyncConnection.connect(url) as connection, AsyncClientCursor(connection) as cursor:
        await cursor.execute(_CROWD, {"runs": runs, "person": person.id})
    await assert_places_are_right(url)
