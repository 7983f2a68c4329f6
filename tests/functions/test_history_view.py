"""The view execution_logs: what programs that expect a table of executions read, through the official client."""

from __future__ import annotations

from typing import Any, cast

import pytest
from postgrest import APIError

from tests.functions.history import agent_of, ended_run, member
from tests.support.runs import connect
from tests.support.stack import Person, Stack

SHAPE = [
    "id", "user_id", "agent_id", "status", "input_snapshot", "output_snapshot", "error_message", "duration_ms",
    "credits_consumed", "created_at", "completed_at",
]  # fmt: skip


async def read(person: Person, **equal: object) -> list[dict[str, Any]]:
    query = person.client.table("execution_logs").select("*")
    for column, value in equal.items():
        query = query.eq(column, value)
    return cast("list[dict[str, Any]]", (await query.order("created_at", desc=True).execute()).data)


async def test_it_shows_a_run_in_the_shape_of_an_execution(stack: Stack):
    ada = await stack.sign_up()
    agent_id = await agent_of(stack.database_url, ada.user_id)
    run_id = await ended_run(
        stack.database_url, ada.user_id, agent_id=agent_id, input={"prompt": "x"}, output={"text": "y"},
        credits_spent=1_250_000, created_at="2026-01-01T00:00:00Z",
    )  # fmt: skip

    (row,) = await read(ada)

    assert list(row) == SHAPE
    assert row == {
        "id": run_id, "user_id": ada.user_id, "agent_id": agent_id, "status": "completed",
        "input_snapshot": {"prompt": "x"}, "output_snapshot": {"text": "y"}, "error_message": None,
        "duration_ms": 2000, "credits_consumed": 1.25, "created_at": "2026-01-01T00:00:00+00:00",
        "completed_at": "2026-01-01T00:00:02+00:00",
    }  # fmt: skip


async def test_a_failure_shows_its_message_and_a_run_that_goes_on_no_end(stack: Stack):
    ada = await stack.sign_up()
    await ended_run(stack.database_url, ada.user_id, status="failed", error={"code": "c", "message": "It broke"})
    await ended_run(stack.database_url, ada.user_id, status="created", started_at=None, finished_at=None)

    (failed,), (created,) = await read(ada, status="failed"), await read(ada, status="created")

    assert (failed["error_message"], failed["output_snapshot"]) == ("It broke", None)
    assert (created["completed_at"], created["duration_ms"]) == (None, None)


async def test_it_is_filtered_ordered_counted_and_paged_as_a_table_is(stack: Stack):
    ada = await stack.sign_up()
    run_ids = [
        await ended_run(
            stack.database_url, ada.user_id, created_at=f"2026-01-0{n}T00:00:00Z", credits_spent=n * 1_000_000,
            input={"prompt": f"number {n}"},
        )
        for n in (1, 2, 3)
    ]  # fmt: skip
    table = ada.client.table("execution_logs")

    dear = await table.select("id").gte("credits_consumed", 2).order("created_at").execute()
    named = await table.select("id").eq("input_snapshot->>prompt", "number 2").execute()
    since = await table.select("id", count="exact").gt("created_at", "2026-01-01T12:00:00Z").limit(1).execute()  # type: ignore[arg-type]
    second = await table.select("id").eq("user_id", ada.user_id).order("created_at").range(1, 1).execute()

    assert dear.data == [{"id": run_ids[1]}, {"id": run_ids[2]}]
    assert named.data == [{"id": run_ids[1]}]
    assert (since.count, len(since.data)) == (2, 1)
    assert second.data == [{"id": run_ids[1]}]


@pytest.mark.parametrize("role", ["viewer", "member", "admin", "owner"])
async def test_members_of_an_account_read_its_executions(stack: Stack, role: str):
    ada, bob = await stack.sign_up(), await stack.sign_up()
    run_id = await ended_run(stack.database_url, ada.user_id)
    await member(stack.database_url, bob.user_id, ada.user_id, role)

    assert [row["id"] for row in await read(bob)] == [run_id]


async def test_nobody_else_reads_them_not_even_by_id(stack: Stack):
    ada, bob = await stack.sign_up(), await stack.sign_up()
    run_id = await ended_run(stack.database_url, ada.user_id)

    assert (await read(bob), await read(bob, id=run_id), await read(bob, user_id=ada.user_id)) == ([], [], [])


async def test_a_seller_reads_no_execution_of_those_who_use_his_agent(stack: Stack):
    seller, buyer = await stack.sign_up(), await stack.sign_up()
    agent_id = await agent_of(stack.database_url, seller.user_id)
    await ended_run(stack.database_url, buyer.user_id, agent_id=agent_id)

    assert await read(seller, agent_id=agent_id) == []


async def test_who_is_not_signed_in_reads_nothing(stack: Stack):
    client = await stack.client()

    with pytest.raises(APIError) as caught:
        await client.table("execution_logs").select("*").execute()

    assert caught.value.code == "42501"


@pytest.mark.parametrize("change", ["insert", "update", "delete"])
async def test_nobody_writes_through_it(stack: Stack, change: str):
    ada = await stack.sign_up()
    run_id = await ended_run(stack.database_url, ada.user_id)
    table = ada.client.table("execution_logs")
    write = {
        "insert": lambda: table.insert({"user_id": ada.user_id}),
        "update": lambda: table.update({"user_id": None}).eq("id", run_id),
        "delete": lambda: table.delete().eq("id", run_id),
    }[change]

    with pytest.raises(APIError) as caught:
        await write().execute()

    assert caught.value.code == "42501"
    assert [row["id"] for row in await read(ada)] == [run_id]


async def test_the_rights_that_count_are_its_readers(stack: Stack):
    """Without it the view would read as its owner, whom no policy holds."""
    async with connect(stack.database_url) as connection:
        (options,) = (
            await (
                await connection.execute(
                    "select reloptions from pg_class where oid = 'public.execution_logs'::regclass"
                )
            ).fetchone()
            or ()
        )

    assert options == ["security_invoker=true"]
