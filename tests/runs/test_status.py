"""One transition table in Python and SQL, and SQL guards it."""

from __future__ import annotations

import psycopg
import pytest

from shared.runs.status import RUN_TRANSITIONS, STEP_TRANSITIONS, RunStatus, StepStatus
from tests.support.runs import connect, new_person


@pytest.mark.parametrize(
    ("table", "transitions"), [("run_transitions", RUN_TRANSITIONS), ("step_transitions", STEP_TRANSITIONS)]
)
async def test_sql_and_python_hold_the_same_moves(database_url: str, table: str, transitions: dict) -> None:
    async with connect(database_url) as connection:
        rows = await (
            await connection.execute(f"select from_status::text, to_status::text from private.{table}")
        ).fetchall()

    assert set(rows) == {(str(one), str(other)) for one, others in transitions.items() for other in others}


@pytest.mark.parametrize(("enum", "statuses"), [("run_status", RunStatus), ("step_status", StepStatus)])
async def test_sql_and_python_name_the_same_statuses(database_url: str, enum: str, statuses: type) -> None:
    async with connect(database_url) as connection:
        rows = await (await connection.execute(f"select unnest(enum_range(null::public.{enum}))::text")).fetchall()

    assert [row[0] for row in rows] == [str(status) for status in statuses]


async def test_the_guard_refuses_every_move_outside_the_table_whoever_asks(database_url: str) -> None:
    """Even the superuser: each pair of statuses is tried on a row that stands in the first."""
    person = await new_person(database_url)
    run_id = (await person.create())["run_id"]
    refused: set[tuple[str, str]] = set()
    async with connect(database_url) as connection:
        for one in RunStatus:
            for other in RunStatus:
                if one is other:
                    continue
                if await _is_refused(connection, run_id, one, other):
                    refused.add((one, other))

    allowed = {(one, other) for one, others in RUN_TRANSITIONS.items() for other in others}
    every = {(one, other) for one in RunStatus for other in RunStatus if one is not other}
    assert refused == every - allowed


async def _is_refused(connection: psycopg.AsyncConnection, run_id: str, one: RunStatus, other: RunStatus) -> bool:
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute("alter table public.agent_runs disable trigger guard")
            await connection.execute(_force(one), [one, run_id])
            await connection.execute("alter table public.agent_runs enable trigger guard")
            await connection.execute(_force(other), [other, run_id])
    except psycopg.DatabaseError as error:
        if error.sqlstate != "RUN02":
            raise
        return True
    return False


def _force(status: RunStatus) -> str:
    lease = (
        "gen_random_uuid(), lease_owner = 'x', lease_expires_at = now(), fair_tag = 0, held_for = 0"
        if status.leased
        else "null, lease_owner = null, lease_expires_at = null, fair_tag = null, held_for = null"
    )
    ended = "now()" if status.ended else "null"
    return f"update public.agent_runs set status = %s, lease_id = {lease}, finished_at = {ended} where id = %s"
