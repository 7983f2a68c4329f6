"""What must hold in the database when everything has ended: one query an invariant, which answers what breaks it.

Each is a sentence, a query that counts what was looked at, and a query whose rows are the violations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ENDS: Final = "('completed', 'failed', 'cancelled', 'timeout')"
_RUNS: Final = "select count(*) from public.agent_runs"
_STEPS: Final = "select count(*) from public.agent_steps"
_LEDGER: Final = "select count(*) from public.credit_ledger"


@dataclass(frozen=True, slots=True)
class Invariant:
    """A sentence about the rows, and how it is checked."""

    sentence: str
    looked_at: str
    violations: str


INVARIANTS: Final = (
    Invariant(
        "Nothing is stuck: every run has ended",
        _RUNS,
        "select 'run ' || id || ' is ' || status || ' since ' || updated_at from public.agent_runs"
        f" where status not in {ENDS}",
    ),
    Invariant(
        "Each run ended once, and its log says so",
        _RUNS,
        f"""
        select 'run ' || r.id || ' is ' || r.status || ' with ends in its log: ' || coalesce(l.ends, 'none')
        from public.agent_runs r left join (
          select run_id, string_agg(metadata ->> 'to', ', ' order by seq) as ends from public.agent_task_logs
          where log_type = 'state_transition' and metadata ->> 'to' in {ENDS} group by run_id
        ) l on l.run_id = r.id
        where r.finished_at is not null and l.ends is distinct from r.status::text
        """,
    ),
    Invariant(
        "Each move in a run's log begins where the last one ended",
        "select count(*) from public.agent_task_logs where log_type = 'state_transition'",
        """
        select 'run ' || run_id || ' line ' || seq || ': ' || message || ' after ' || was from (
          select run_id, seq, message, metadata ->> 'from' as source,
            lag(metadata ->> 'to') over (partition by run_id order by seq) as was
          from public.agent_task_logs where log_type = 'state_transition'
        ) x where was <> source
        """,
    ),
    Invariant(
        "seq counts every run's log lines without a gap",
        "select count(*) from public.agent_task_logs",
        """
        select 'run ' || r.id || ' counts ' || r.log_seq || ' lines and has ' || coalesce(l.lines, 0)
        from public.agent_runs r left join (
          select run_id, count(*) as lines, min(seq) as first, max(seq) as last
          from public.agent_task_logs group by run_id
        ) l on l.run_id = r.id
        where (l.first, l.last, l.lines) is distinct from (1::bigint, r.log_seq, r.log_seq)
        """,
    ),
    Invariant(
        "No step was recorded twice under one key, and numbers have no gap",
        _STEPS,
        """
        select 'run ' || s.run_id || ' counts ' || r.step_count || ' steps, has ' || count(*) || ' with '
          || count(distinct s.key) || ' keys'
        from public.agent_steps s join public.agent_runs r on r.id = s.run_id group by s.run_id, r.step_count
        having count(distinct s.key) <> count(*) or max(s.step_no) <> count(*) or r.step_count <> count(*)
        """,
    ),
    Invariant(
        "What a step recorded stands there once if it completed, else never",
        "select count(*) from public.agent_steps where kind in ('compute', 'think', 'look_up', 'send')",
        """
        select 'step ' || s.step_no || ' of run ' || s.run_id || ' is ' || s.status || ' with '
          || coalesce(l.lines, 0) || ' lines and ' || coalesce(a.files, 0) || ' artifacts'
        from public.agent_steps s left join (
          select run_id, metadata ->> 'result_of' as key, count(*) as lines from public.agent_task_logs
          where metadata ? 'result_of' group by 1, 2
        ) l on l.run_id = s.run_id and l.key = s.key left join (
          select run_id, step_no, count(*) as files from public.agent_artifacts group by 1, 2
        ) a on a.run_id = s.run_id and a.step_no = s.step_no
        where s.kind in ('compute', 'think', 'look_up', 'send') and (coalesce(l.lines, 0), coalesce(a.files, 0))
          <> ((s.status = 'completed')::int, (s.status = 'completed' and s.kind = 'think')::int)
        """,
    ),
    Invariant(
        "Nothing of an ended run is open: no step, no question",
        _STEPS,
        f"""
        select 'step ' || s.step_no || ' of run ' || s.run_id || ' is ' || s.status from public.agent_steps s
          join public.agent_runs r on r.id = s.run_id
          where r.status in {ENDS} and s.status in ('pending', 'running')
        union all select 'question ' || q.id || ' of run ' || q.run_id || ' is open' from public.human_requests q
          join public.agent_runs r on r.id = q.run_id where r.status in {ENDS} and q.status = 'open'
        """,
    ),
    Invariant(
        "No model output is kept beyond the step that wrote it",
        "select count(*) from public.agent_steps where kind = 'think'",
        """
        select 'step ' || d.step_no || ' of run ' || d.run_id || ' is ' || coalesce(s.status::text, 'missing')
          || ' and has pieces of output left: ' || count(*)
        from private.step_deltas d left join public.agent_steps s on s.run_id = d.run_id and s.step_no = d.step_no
        where s.status is null or s.status not in ('pending', 'running')
        group by d.run_id, d.step_no, s.status
        """,
    ),
    Invariant(
        "No lease is held, by the dead or the living",
        _RUNS,
        "select 'run ' || id || ' is held by ' || lease_owner from public.agent_runs where lease_id is not null",
    ),
    Invariant(
        "Every place was given back, and nobody waits for one",
        "select count(*) from private.slots",
        """
        select s.kind || ' slot ' || s.id || ' still counts ' || s.taken from private.slots s where s.taken <> 0
        union all select 'run ' || id || ' is ' || status || ' and in the queue' from public.agent_runs
          where held_for is not null or fair_tag is not null
        """,
    ),
    Invariant(
        "No account created more runs than its minutes let in",
        _RUNS,
        # Of any runs in a row, all but a minute's worth must have had the time that they take at the tier's pace. A
        # second is for what passes between the asking and the writing.
        """
        select 'run ' || id || ' of account ' || account_id || ' came too soon after others' from (
          select r.id, r.account_id, r.at, r.pace,
            r.number * r.pace - r.at - min(r.number * r.pace - r.at) over (partition by r.account_id order by r.number)
            as ahead
          from (
            select q.id, q.account_id, 60.0 / t.creates_per_minute as pace, extract(epoch from q.created_at) as at,
              row_number() over (partition by q.account_id order by q.created_at, q.id) as number
            from public.agent_runs q
            join public.accounts a on a.id = q.account_id join private.tiers t on t.name = a.tier
          ) r
        ) x where x.ahead + x.pace > 61
        """,
    ),
    Invariant(
        "Every account's row is the sum of its transfers",
        _LEDGER,
        """
        select 'account ' || a.account_id || ' has ' || b.name || ' ' || b.amount || ', transfers give ' || t.amount
        from public.credit_accounts a
        cross join lateral (
          values ('available'::public.credit_place, a.available), ('held', a.held), ('spent', a.spent)) b (name, amount)
        cross join lateral (
          select coalesce(sum(case when l.credit = b.name then l.amount else -l.amount end), 0) as amount
          from public.credit_ledger l where l.account_id = a.account_id and b.name in (l.debit, l.credit)
        ) t where t.amount <> b.amount
        """,
    ),
    Invariant(
        "No account and no run's hold was ever below zero, transfer by transfer",
        _LEDGER,
        """
        select 'account ' || account_id || ' fell to ' || min(rest) from (
          select account_id, sum(case when credit = 'available' then amount when debit = 'available' then -amount
            else 0 end) over (partition by account_id order by id) as rest from public.credit_ledger
        ) x group by account_id having min(rest) < 0
        union all select 'the hold of run ' || run_id || ' fell to ' || min(rest) from (
          select run_id, sum(case when credit = 'held' then amount else -amount end)
            over (partition by run_id order by id) as rest from public.credit_ledger where run_id is not null
        ) x group by run_id having min(rest) < 0
        """,
    ),
    Invariant(
        "Every run gave back its hold but for what its steps cost, each cost booked once",
        _RUNS,
        f"""
        select 'run ' || r.id || ' spent ' || r.credits_spent || ', its steps ' || coalesce(s.spent, 0)
          || ', its transfers ' || coalesce(l.settled, 0) || ' of ' || coalesce(l.held, 0)
        from public.agent_runs r left join (
          select run_id, sum(credits_spent) as spent from public.agent_steps group by run_id
        ) s on s.run_id = r.id left join (
          select run_id, sum(amount) filter (where kind = 'settle') as settled,
            sum(case kind when 'hold' then amount when 'release' then -amount else 0 end) as held
          from public.credit_ledger where run_id is not null group by run_id
        ) l on l.run_id = r.id
        where r.status in {ENDS} and (r.credits_held <> 0 or r.credits_reserved <> 0
          or r.credits_spent <> coalesce(s.spent, 0) or r.credits_spent <> coalesce(l.settled, 0)
          or r.credits_spent <> coalesce(l.held, 0))
        """,
    ),
)
