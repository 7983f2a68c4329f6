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
      from unnest(array['available', 'held', 'spent']::public.credit_place[]) b)))
    from public.credit_accounts a where a.account_id = any (%s)),
  'slots', (
    select coalesce(jsonb_agg(to_jsonb(s) || jsonb_build_object('has_room', private.has_room(s),
      'of_tier', (select t.concurrent_runs from public.accounts a join private.tiers t on t.name = a.tier
        where a.id = s.account_id))), '[]')
    from private.slots s),
  'now', private.clock())
"""
# What may change while the revision stays: the lease's time, marks, what is broadcast, and a run's place in the queue.
_PASSING = {
    "lease_expires_at", "stop_requested_at", "pause_requested_at", "broadcast_seq", "broadcast_at", "stray_deltas",
    "held_for", "fair_tag", "slot_ids",
}  # fmt: skip
ENDS = ("completed", "failed", "cancelled", "timeout")
LEASED = ("planning", "executing")


@dataclass
class Snapshot:
    """All rows of one moment."""

    runs: dict[str, Row]
    steps: dict[tuple[str, int], Row]
    requests: list[Row]
    accounts: list[Row]
    slots: dict[int, Row]
    now: str
    """The database's time; times compare as their texts do."""

    def open_requests(self, run_id: str) -> list[Row]:
        return [row for row in self.requests if row["run_id"] == run_id and row["status"] == "open"]

    def steps_of(self, run_id: str) -> list[Row]:
        return [row for row in self.steps.values() if row["run_id"] == run_id]


async def look(world: World) -> Snapshot:
    rows = await world.see(_SNAPSHOT, [*world.accounts.values()])
    return Snapshot(
        runs={row["id"]: row for row in rows["runs"]},
        steps={(row["run_id"], row["step_no"]): row for row in rows["steps"]},
        requests=rows["requests"],
        accounts=rows["accounts"],
        slots={row["id"]: row for row in rows["slots"]},
        now=rows["now"],
    )


@dataclass
class History:
    """What was final once, and what somebody was promised."""

    runs: dict[str, Row] = field(default_factory=dict)
    steps: dict[tuple[str, int], Row] = field(default_factory=dict)
    stopping: set[str] = field(default_factory=set)
    """Runs whose people were told that they will be stopped."""
    pausing: set[str] = field(default_factory=set)
    before: Snapshot | None = None

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
        for slot in now.slots.values():
            _check_slot(slot, now, self.before)
        if self.before is not None:
            _check_revisions(self.before, now)
        self.before = now

    def _check_promises(self, row: Row) -> None:
        ended, leased = row["status"] in ENDS, row["lease_id"] is not None
        if row["id"] in self.stopping:
            assert ended or (leased and row["stop_requested_at"]), "a run was to stop, and nobody knows any more"
        if row["id"] in self.pausing:
            assert ended or row["status"] == "paused" or (leased and row["pause_requested_at"]), (
                "a run was to pause, and nobody knows any more"
            )


def _check_revisions(before: Snapshot, now: Snapshot) -> None:
    """Whoever remembers a revision knows what stands in the rows as long as it is the same."""
    same = set[str]()
    for run_id, was in before.runs.items():
        run = now.runs[run_id]
        assert run["revision"] >= was["revision"], "a revision came back"
        if run["revision"] == was["revision"]:
            same.add(run_id)
            changed = {name for name in run.keys() - _PASSING if run[name] != was[name]}
            assert not changed, f"{changed} changed behind the revision"
    known = {key: step for key, step in before.steps.items() if key[0] in same}
    assert known == {key: step for key, step in now.steps.items() if key[0] in same}, "a step changed behind it"


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
        assert run["held_for"] is None
        assert run["status"] != "timeout" or run["finished_at"] >= run["deadline_at"], "timed out before its deadline"
        return
    asking = {step["step_no"] for step in steps if step["waits_for"] == "human"}
    assert {question["step_no"] for question in questions} == asking
    _check_place(run, now)
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


def _check_place(run: Row, now: Snapshot) -> None:
    """Whatever is queued has a place, waits for one that is taken, or for a time; whoever works has his places."""
    assert (run["fair_tag"] is None) == (run["held_for"] != 0)
    if run["status"] in LEASED:
        assert run["held_for"] == 0, "a run is worked on that has no place"
    elif run["status"] != "queued":
        assert run["held_for"] is None, "a run that does not queue has a place in the queue"
    elif run["held_for"] is None:
        assert run["available_at"] != "infinity", "nothing wakes this run"
        assert run["available_at"] > run["updated_at"], "a run that waits for no time has lost its turn"
    elif run["held_for"] > 0:
        slot = now.slots[run["held_for"]]
        assert slot["id"] in run["slot_ids"]
        assert slot["recheck"] or not slot["has_room"], "a run is held beside an empty place"
    if run["held_for"] is not None:
        slots = [now.slots[number] for number in run["slot_ids"]]
        assert all(slot["account_id"] == run["account_id"] for slot in slots), "a run has a stranger's place"
        assert slots[0]["kind"] == "account"


def _check_slot(slot: Row, now: Snapshot, before: Snapshot | None) -> None:
    number = slot["id"]
    having = [run for run in now.runs.values() if run["held_for"] == 0 and number in run["slot_ids"]]
    assert slot["taken"] == len(having), "a slot counts its runs wrongly"
    if before is None or number not in before.slots:
        return
    places = slot["of_tier"] if slot["places"] is None else slot["places"]
    assert slot["taken"] <= max(places, before.slots[number]["taken"]), "more runs go on than there are places"
    was_held = {run_id for run_id, run in before.runs.items() if run["held_for"] == number}
    let_in = [run["priority"] for run in having if run["id"] in was_held]
    still = [run["priority"] for run in now.runs.values() if run["id"] in was_held and run["held_for"] == number]
    assert not let_in or not still or min(let_in) >= max(still), "a run was let in before a better one"


def check_nothing_is_due(now: Snapshot) -> None:
    """After a claim that found nothing: nothing was left that it could have found."""
    for run in now.runs.values():
        if run["status"] in LEASED:
            assert run["lease_expires_at"] >= now.now, "the dead hold a lease"
        if run["status"] in {"queued", "awaiting_input"}:
            assert run["deadline_at"] > now.now, "a run is late and goes on waiting"
        if run["status"] == "queued":
            assert run["held_for"] != 0, "a run could have been claimed"
            assert run["held_for"] is not None or run["available_at"] > now.now, "a run's time has come and it sleeps"
    assert not any(slot["recheck"] and slot["has_room"] for slot in now.slots.values()), "a slot was not looked at"


def check_claimed(claimed: list[str], before: Snapshot, now: Snapshot) -> None:
    """Who was claimed had a place, stood before his worse siblings, and was handed out alone if he is a suspect."""
    suspects = [run_id for run_id in claimed if now.runs[run_id]["attempt"] > 1]
    assert not suspects or len(claimed) == 1, "a run that may be poison was claimed with others"
    for run_id in claimed:
        run = now.runs[run_id]
        if before.runs[run_id]["status"] in LEASED:
            assert before.runs[run_id]["lease_expires_at"] < now.now, "a lease was taken from the living"
            continue
        better = [
            other
            for other in now.runs.values()
            if other["account_id"] == run["account_id"] and other["status"] == "queued" and other["held_for"] == 0
            and other["priority"] > run["priority"]
        ]  # fmt: skip
        assert not better, "a run was claimed before a better one of its account"
