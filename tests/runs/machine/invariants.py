"""What must be true after every move, whoever made it. Read from the rows, in one query."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.runs.machine.world import World

Row = dict[str, Any]

_SNAPSHOT = """
select jsonb_build_object(
  'runs', (
    select coalesce(jsonb_agg(to_jsonb(r) || jsonb_build_object(
      'lines', (select count(*) from public.agent_task_logs l where l.run_id = r.id),
      'first_seq', (select min(seq) from public.agent_task_logs l where l.run_id = r.id),
      'last_seq', (select max(seq) from public.agent_task_logs l where l.run_id = r.id),
      'stray_deltas', (select count(*) from private.step_deltas d where d.run_id = r.id and not exists (
        select from public.agent_steps s where (s.run_id, s.step_no, s.attempt) = (d.run_id, d.step_no, d.attempt)
          and s.status = 'running' and s.waits_for is null)),
      'booked_hold', (
        select coalesce(sum(case kind when 'hold' then amount else -amount end), 0)
        from public.credit_ledger c where c.run_id = r.id),
      'booked_spent', (
        select coalesce(sum(amount), 0) from public.credit_ledger c where c.run_id = r.id and kind = 'settle')
    ) order by r.id), '[]') from public.agent_runs r),
  'steps', (select coalesce(jsonb_agg(to_jsonb(s) order by s.run_id, s.step_no), '[]') from public.agent_steps s),
  'requests', (select coalesce(jsonb_agg(to_jsonb(q) order by q.run_id, q.step_no), '[]') from public.human_requests q),
  'accounts', (
    select jsonb_agg(to_jsonb(a) || jsonb_build_object('booked', (
      select jsonb_object_agg(b, (
        select coalesce(sum(amount) filter (where credit = b), 0) - coalesce(sum(amount) filter (where debit = b), 0)
        from public.credit_ledger l where l.account_id = a.account_id))
      from unnest(array['available', 'held', 'spent']) b)))
    from public.credit_accounts a where a.account_id = any (%s)))
"""
ENDS = ("completed", "failed", "cancelled", "timeout")
LEASED = ("planning", "executing")


@dataclass
class Snapshot:
    """All rows of one moment."""

    runs: dict[str, Row]
    steps: dict[tuple[str, int], Row]
    requests: list[Row]
    accounts: list[Row]

    def open_requests(self, run_id: str) -> list[Row]:
        return [row for row in self.requests if row["run_id"] == run_id and row["status"] == "open"]

    def steps_of(self, run_id: str) -> list[Row]:
        return [row for row in self.steps.values() if row["run_id"] == run_id]


async def look(world: World) -> Snapshot:
    rows = await world.see(_SNAPSHOT, [person.id for person in world.people.values()])
    return Snapshot(
        runs={row["id"]: row for row in rows["runs"]},
        steps={(row["run_id"], row["step_no"]): row for row in rows["steps"]},
        requests=rows["requests"],
        accounts=rows["accounts"],
    )


@dataclass
class History:
    """What was final once, and what somebody was promised."""

    runs: dict[str, Row] = field(default_factory=dict)
    steps: dict[tuple[str, int], Row] = field(default_factory=dict)
    stopping: set[str] = field(default_factory=set)
    """Runs whose people were told that they will be stopped."""
    pausing: set[str] = field(default_factory=set)

    def check(self, now: Snapshot) -> None:
        """Hold every invariant, and remember what has become final."""
        for key, row in now.steps.items():
            _check_step(row, now.runs[row["run_id"]])
            if row["status"] not in {"pending", "running"}:
                assert self.steps.setdefault(key, row) == row, "an ended step changed"
        assert self.steps.keys() <= now.steps.keys(), "an ended step is gone"
        for run_id, row in now.runs.items():
            _check_run(row, now)
            if row["status"] in ENDS:
                assert self.runs.setdefault(run_id, row) == row, "an ended run changed"
            self._check_promises(row)
        assert self.runs.keys() <= now.runs.keys(), "an ended run is gone"
        for account in now.accounts:
            _check_account(account, now)

    def _check_promises(self, row: Row) -> None:
        ended, leased = row["status"] in ENDS, row["lease_id"] is not None
        if row["id"] in self.stopping:
            assert ended or (leased and row["stop_requested_at"]), "a run was to stop, and nobody knows any more"
        if row["id"] in self.pausing:
            assert ended or row["status"] == "paused" or (leased and row["pause_requested_at"]), (
                "a run was to pause, and nobody knows any more"
            )


def _check_step(step: Row, run: Row) -> None:
    ended = step["status"] not in {"pending", "running"}
    assert ended == (step["finished_at"] is not None)
    if run["status"] in ENDS:
        assert ended, "a step is open in an ended run"
    if step["waits_for"] is not None:
        assert step["status"] == "running"
    assert step["credits_spent"] >= 0
    assert step["step_no"] <= run["step_count"]


def _check_run(run: Row, now: Snapshot) -> None:
    assert (run["lines"], run["last_seq"] or 0) == (run["log_seq"], run["log_seq"]), "seq has gaps"
    assert run["first_seq"] in {1, None}
    assert run["broadcast_seq"] <= run["log_seq"]
    steps = now.steps_of(run["id"])
    performed = [step for step in steps if step["status"] == "running" and step["waits_for"] is None]
    assert run["credits_reserved"] == sum(step["credits_bound"] for step in performed)
    assert run["credits_reserved"] <= run["credits_held"]
    assert run["booked_hold"] == run["credits_held"]
    assert run["booked_spent"] == run["credits_spent"] == sum(step["credits_spent"] for step in steps)
    assert (run["status"] in LEASED) == (run["lease_id"] is not None)
    assert run["stray_deltas"] == 0, "model output is kept of a step that nobody performs"
    if run["max_credits"] is not None:
        assert run["credits_spent"] <= run["max_credits"]

    questions = now.open_requests(run["id"])
    if run["status"] in ENDS:
        assert not questions
        assert run["credits_held"] == 0
        return
    asking = {step["step_no"] for step in steps if step["waits_for"] == "human"}
    assert {question["step_no"] for question in questions} == asking
    if run["status"] == "queued":
        assert run["available_at"] != "infinity", "nothing wakes this run"
    if run["status"] == "awaiting_input":
        assert questions, "this run waits for a person whom nobody asked"
    if run["status"] not in LEASED:
        assert not performed, "a step is performed by nobody"


def _check_account(account: Row, now: Snapshot) -> None:
    runs = [run for run in now.runs.values() if run["account_id"] == account["account_id"]]
    still = [run for run in runs if run["status"] not in ENDS]
    spent = sum(run["credits_spent"] for run in still)
    # The account's row learns at a run's end what its steps spent.
    assert account["held"] == sum(run["credits_held"] for run in still) + spent
    assert account["booked"] == {
        "available": account["available"],
        "held": account["held"] - spent,
        "spent": account["spent"] + spent,
    }
    assert min(account["available"], account["held"], account["spent"]) >= 0
