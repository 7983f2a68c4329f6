"""Holds what the database says against what was planned, what people were told, and what the outside saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg import Connection

from bench.soak.invariants import INVARIANTS
from bench.soak.outside import Calls
from bench.soak.people import Told
from bench.soak.plan import ENDS, GIVES_A_VALUE, REFUSED, RunPlan, value_of
from shared.runs.performer import OUTCOME_UNKNOWN


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise: how many cases were looked at, and those in which it was broken."""

    sentence: str
    looked_at: int
    broken: list[str]


@dataclass(slots=True)
class Account:
    """Everything that was found at the end."""

    verdicts: list[Verdict]
    runs: Counter[str] = field(default_factory=Counter)
    """By status."""
    figures: dict[str, int] = field(default_factory=dict)

    @property
    def broken(self) -> int:
        """How many promises were."""
        return sum(bool(verdict.broken) for verdict in self.verdicts)


def verify(connection: Connection, told: Told, calls: Mapping[UUID, Calls]) -> Account:
    """Check every promise. The database is at rest."""
    verdicts = [
        Verdict(
            invariant.sentence,
            connection.execute(invariant.looked_at).fetchone()[0],  # type: ignore[index]
            [row[0] for row in connection.execute(invariant.violations)],
        )
        for invariant in INVARIANTS
    ]
    runs = {row[0]: row[1:] for row in connection.execute("select id, status::text, output, error from agent_runs")}
    steps = [_Step(*row) for row in connection.execute(_STEPS)]
    verdicts += [
        _acknowledged_runs(told, runs),
        _acknowledged_answers(connection, told),
        _ends(told.created, runs, steps),
        _results(told.created, steps),
        _effects(steps, calls),
        Verdict("No reply contradicted another, and none was an error", len(told.created), told.wrong),
    ]
    account = Account(verdicts, Counter(row[0] for row in runs.values()))
    account.figures = _figures(connection, steps, calls)
    return account


@dataclass(frozen=True, slots=True)
class _Step:
    run_id: UUID
    key: str
    kind: str
    status: str
    effect: str
    effect_key: UUID
    attempt: int
    failed_attempts: int
    value: int | None
    error: str | None


_STEPS = """
  select run_id, key, kind, status::text, effect::text, effect_key, attempt, failed_attempts,
    (output ->> 'value')::bigint, error ->> 'code'
  from public.agent_steps
"""


def _acknowledged_runs(told: Told, runs: Mapping[UUID, Any]) -> Verdict:
    lost = [f"run {run_id} was acknowledged and is not there" for run_id in told.created.keys() - runs.keys()]
    lost += [f"run {run_id} is there and nobody was told of it" for run_id in runs.keys() - told.created.keys()]
    return Verdict("Every run that a person was told of is there, and no other", len(told.created), lost)


def _acknowledged_answers(connection: Connection, told: Told) -> Verdict:
    rows = connection.execute(
        "select q.id, q.response #>> '{}', s.status::text, s.output ->> 'response' from public.human_requests q"
        " join public.agent_steps s on s.run_id = q.run_id and s.step_no = q.step_no where q.status = 'answered'"
    )
    found = {row[0]: row[1:] for row in rows}
    lost = [
        f"the answer to question {request_id} is {found.get(request_id)}"
        for request_id, response in told.answered.items()
        if found.get(request_id) != (response, "completed", response)
    ]
    return Verdict("Every answer that was acknowledged is the result of its step", len(told.answered), lost)


def _ends(plans: Mapping[UUID, RunPlan], runs: Mapping[UUID, Any], steps: list[_Step]) -> Verdict:
    unknown: dict[UUID, set[str]] = {}
    for step in steps:
        if step.error == OUTCOME_UNKNOWN:
            unknown.setdefault(step.run_id, set()).add(step.key)

    def broken() -> Iterator[str]:
        for run_id, (status, output, error) in runs.items():
            plan = plans.get(run_id)
            if plan is None:
                continue
            if status not in ENDS[plan.kind] or (status == "failed" and error["code"] != REFUSED):
                yield f"run {run_id} ({plan.kind}) ended as {status}: {error}"
            elif status == "completed":
                total = plan.total(without=frozenset(unknown.get(run_id, ())))
                if output["total"] != total:
                    yield f"run {run_id} gave {output['total']} and not {total}"

    return Verdict("Every run ended as planned, with the right output", len(runs), list(broken()))


def _results(plans: Mapping[UUID, RunPlan], steps: list[_Step]) -> Verdict:
    valued = [
        step for step in steps if step.kind in GIVES_A_VALUE and step.status == "completed" and step.run_id in plans
    ]
    wrong = [
        f"step {step.key} of run {step.run_id} has {step.value}"
        for step in valued
        if step.value != value_of(plans[step.run_id].seed, step.key)
    ]
    return Verdict("Every completed step has its one right result", len(valued), wrong)


def _effects(steps: list[_Step], calls: Mapping[UUID, Calls]) -> Verdict:
    recorded = {step.effect_key: step for step in steps}

    def broken() -> Iterator[str]:
        for effect_key in calls.keys() - recorded.keys():
            yield f"effect {effect_key} happened and no step has that key"
        for step in steps:
            if step.effect != "effectful":
                continue
            taken = calls[step.effect_key].taken if step.effect_key in calls else 0
            if taken > 1 or (step.status == "completed" and taken != 1):
                yield f"{step.kind} {step.key} of run {step.run_id} is {step.status} and took effect {taken} times"
            if step.status == "failed" and step.error != OUTCOME_UNKNOWN:
                yield f"{step.kind} {step.key} of run {step.run_id} failed by {step.error}"

    looked_at = sum(step.effect == "effectful" for step in steps)
    return Verdict(
        "Effectful steps took effect once if completed, never twice, none unrecorded", looked_at, list(broken())
    )


def _figures(connection: Connection, steps: list[_Step], calls: Mapping[UUID, Calls]) -> dict[str, int]:
    def count(query: str) -> int:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]

    unknown = [step for step in steps if step.error == OUTCOME_UNKNOWN]
    happened = sum(step.effect_key in calls and calls[step.effect_key].taken > 0 for step in unknown)
    return {
        "runs taken over from dead workers": count(
            "select count(*) from agent_task_logs where metadata ->> 'event' = 'lease_expired'"
        ),
        "steps performed again": sum(step.attempt - 1 > step.failed_attempts for step in steps),
        "tries that failed and were repeated": sum(
            step.failed_attempts for step in steps if step.status == "completed"
        ),
        "idempotent effects asked for again": sum(
            max(0, calls[step.effect_key].taken - 1)
            for step in steps
            if step.effect == "idempotent" and step.effect_key in calls
        ),
        "effects of unknown outcome, asked a person": len(unknown),
        "of these, effects that had happened": happened,
        "pauses for want of credits": count(
            "select count(*) from agent_task_logs where metadata ->> 'event' = 'out_of_credits'"
        ),
    }
