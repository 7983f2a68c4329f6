"""What a run's row can never say, whoever writes it; most of it is held by triggers that a step does not fire."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from shared.runs.batch import to_batch
from shared.runs.store import RunStore
from shared.runs.transitions import Advance
from tests.support.runs import Person, claim, connect, run_row

IMPOSSIBLE = {
    "running without a lease": ("lease_id = null", "agent_runs_lease_while_running"),
    "a lease of nobody": ("lease_owner = null", "agent_runs_lease_while_running"),
    "resuming as ended": ("resumes_as = 'completed'", "agent_runs_lease_while_running"),
    "running while held back": ("held_for = 1, fair_tag = null", "agent_runs_in_the_queue"),
    "a place and no turn": ("fair_tag = null", "agent_runs_in_the_queue"),
    "finished while running": ("finished_at = now()", "agent_runs_finished_at_the_end"),
    "priority beyond its bounds": ("priority = 101", "agent_runs_chosen"),
    "a limit of nothing": ("concurrency_limit = 1", "agent_runs_chosen"),
    "a key without a limit": ("concurrency_key = 'k'", "agent_runs_chosen"),
    "an empty key": ("concurrency_key = '', concurrency_limit = 1", "agent_runs_chosen"),
    "no attempts": ("max_attempts = 0", "agent_runs_chosen"),
    "too many steps": ("max_steps = 10001", "agent_runs_chosen"),
    "no time": ("timeout_seconds = 0", "agent_runs_chosen"),
    "no credits at most": ("max_credits = 0", "agent_runs_chosen"),
    "a hold below zero": ("credits_held = -1", "agent_runs_credits"),
    "a reservation below zero": ("credits_reserved = -1", "agent_runs_credits"),
    "spent below zero": ("credits_spent = -1", "agent_runs_credits"),
}


@pytest.mark.parametrize(("change", "constraint"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
async def test_a_run_is_never_written_as_it_cannot_be(
    store: RunStore, person: Person, database_url: str, change: str, constraint: str
) -> None:
    run_id = await person.queue()
    await claim(store)
    before = await run_row(database_url, run_id)

    async with connect(database_url) as connection:
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            await connection.execute(f"update public.agent_runs set {change} where id = %s".encode(), [run_id])

    assert refused.value.diag.constraint_name == constraint
    assert await run_row(database_url, run_id) == before


@pytest.mark.parametrize("call", ["heartbeat", "advance"])
async def test_no_call_takes_the_end_of_a_lease_away(
    store: RunStore, person: Person, database_url: str, call: str
) -> None:
    """A run whose lease never expires would be lost with its worker."""
    run_id = await person.queue()
    run = (await claim(store)).views[0].run
    assert run.lease_id is not None
    before = await run_row(database_url, run_id)
    statement = "select public.heartbeat_runs(%s, null)"
    value: Any = [{"run_id": str(run_id), "lease_id": str(run.lease_id)}]
    if call == "advance":
        statement = "select public.advance_runs(%s)"
        value = {**to_batch([Advance(run_id, run.lease_id, run.revision)], lease_seconds=15), "lease_seconds": None}

    async with connect(database_url) as connection:
        with pytest.raises(psycopg.Error) as refused:
            await connection.execute(statement.encode(), [json.dumps(value)])

    assert refused.value.sqlstate == "RUN07"
    assert await run_row(database_url, run_id) == before


async def test_a_run_is_never_created_as_it_cannot_be(person: Person, database_url: str) -> None:
    columns = "account_id, engine, status, finished_at"
    statement = f"insert into public.agent_runs ({columns}) values (%s, 'list', 'created', now())".encode()

    async with connect(database_url) as connection:
        with pytest.raises(psycopg.errors.CheckViolation):
            await connection.execute(statement, [person.id])


@pytest.mark.parametrize("transfer", ["'spent', 'held', 1", "'held', 'issued', 1", "'held', 'spent', 0"])
async def test_the_ledger_takes_no_transfer_that_goes_backwards(
    person: Person, database_url: str, transfer: str
) -> None:
    columns = "account_id, kind, debit, credit, amount"
    statement = f"insert into public.credit_ledger ({columns}) values (%s, 'settle', {transfer})".encode()

    async with connect(database_url) as connection:
        with pytest.raises(psycopg.errors.CheckViolation):
            await connection.execute(statement, [person.id])
