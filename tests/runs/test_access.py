"""Who may read and write what: strangers, roles, and nobody but functions."""

from __future__ import annotations

import json

import pytest

from shared.runs.store import RunStore
from tests.runs.people import furnished_run, may, refused
from tests.support.runs import (
    Person,
    connect,
    join,
    new_person,
)

TABLES = [
    "agent_runs",
    "agent_steps",
    "agent_plans",
    "agent_messages",
    "agent_artifacts",
    "agent_task_logs",
    "human_requests",
    "accounts",
    "account_members",
    "credit_accounts",
    "credit_ledger",
]


async def test_a_strangers_run_does_not_exist(person: Person, database_url: str) -> None:
    run_id = await person.queue()
    stranger = await new_person(database_url)

    for function, *arguments in (
        ("start_run", run_id),
        ("control_run", run_id, "stop"),
        ("retry_run", run_id),
        ("respond_run", run_id, json.dumps("x")),
        ("follow_run", run_id),
    ):
        assert await refused(stranger.call(function, *arguments)) == "RUN01"


@pytest.mark.parametrize("table", TABLES)
async def test_a_stranger_reads_nothing_of_anybody_and_the_owner_his_own(
    store: RunStore, person: Person, database_url: str, table: str
) -> None:
    """Non-vacuous: the table holds rows of the owner while the stranger asks."""
    await furnished_run(store, person)
    stranger = await new_person(database_url)
    column = "id" if table == "accounts" else "account_id"

    assert await person.query(f"select 1 from public.{table} where {column} = %s", person.id) != []
    assert await stranger.query(f"select 1 from public.{table} where {column} = %s", person.id) == []
    assert await refused(person.query(f"select 1 from public.{table}", role="anon")) == "42501"


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "statement", ["delete from public.{}", "update public.{} set {} = {}", "insert into public.{} default values"]
)
@pytest.mark.parametrize("role", ["authenticated", "service_role", "anon"])
async def test_nobody_writes_to_a_table_by_himself(person: Person, table: str, statement: str, role: str) -> None:
    column = "id" if table == "accounts" else "account_id"

    assert await refused(person.query(statement.format(table, column, column), role=role)) == "42501"


async def test_no_api_role_reaches_the_private_schema(person: Person) -> None:
    for role in ("anon", "authenticated", "service_role"):
        assert await refused(person.query("select * from private.settings", role=role)) == "42501"
        assert await refused(person.query("select private.close_runs('{}')", role=role)) == "42501"


@pytest.mark.parametrize(
    ("role", "reads", "creates", "controls_own", "controls_others"),
    [
        ("viewer", True, False, False, False),
        ("member", True, True, True, False),
        ("admin", True, True, True, True),
        ("owner", True, True, True, True),
    ],
)
async def test_roles_in_an_account(
    person: Person,
    database_url: str,
    role: str,
    *,
    reads: bool,
    creates: bool,
    controls_own: bool,
    controls_others: bool,
) -> None:
    run_id = await person.queue()
    guest = await new_person(database_url)
    await join(database_url, guest, person.id, role)

    assert bool(await guest.query("select 1 from public.agent_runs where id = %s", run_id)) is reads
    assert await may(guest.create(account_id=str(person.id))) is creates
    if creates:
        own = await guest.create(account_id=str(person.id))
        assert await may(guest.call("control_run", own["run_id"], "stop")) is controls_own
    assert await may(guest.call("control_run", run_id, "stop")) is controls_others


async def test_row_level_security_is_on_everywhere_and_no_definer_function_is_exposed(database_url: str) -> None:
    async with connect(database_url) as connection:
        unprotected = await (
            await connection.execute(
                "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
                " where n.nspname in ('public', 'private') and c.relkind = 'r' and not c.relrowsecurity"
                " and c.relname <> 'clock_shift'"
            )
        ).fetchall()
        definers = await (
            await connection.execute(
                "select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
                " where n.nspname = 'public' and p.prosecdef"
            )
        ).fetchall()
        unpinned = await (
            await connection.execute(
                "select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
                " where n.nspname in ('public', 'private')"
                " and not coalesce(p.proconfig, '{}') && array['search_path=\"\"']"
            )
        ).fetchall()

    assert (unprotected, definers, unpinned) == ([], [], [])
