"""What becomes of an agent when several change it, or somebody did past the functions."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import psycopg
import pytest

from tests.functions.test_agents import account_of, act, make
from tests.functions.visitor import Visitor
from tests.support.runs import connect, until
from tests.support.stack import Stack

PROBLEM = "config.prompt: has a place for topic, which no input is"


async def waits_for_a_lock(url: str, function: str) -> bool:
    async with connect(url) as connection:
        cursor = await connection.execute(
            "select 1 from pg_stat_activity where wait_event_type = 'Lock' and strpos(query, %s) > 0", [function]
        )
        return await cursor.fetchone() is not None


async def test_a_draft_that_was_written_past_the_functions_is_checked_when_it_is_published(
    owner: Visitor, http: httpx.AsyncClient
):
    request = {"name": "Broken", "engine": "agent", "config": {"managed": True, "prompt": "Write on {{topic}}"}}
    made = await http.post("/rest/v1/rpc/create_agent", headers=owner.headers, json={"p_request": request})
    agent_id = made.json()["agent_id"]

    refused = await owner.post("agents", {"action": "publish", "agent_id": agent_id})
    await act(owner, "update", agent_id=agent_id, config={"managed": True})
    published = await act(owner, "publish", agent_id=agent_id)

    assert (refused.status_code, refused.json()["message"]) == (400, PROBLEM)
    assert published["status"] == "published"


@pytest.mark.parametrize("action", ["update", "publish"])
async def test_what_is_changed_after_the_check_is_checked_again(owner: Visitor, stack: Stack, action: str):
    """A colleague's change takes away the input that the prompt names, after the prompt was checked and found right."""
    config = {"managed": True, "prompt": "Write on {{topic}}"}
    schema = {"type": "object", "properties": {"topic": {"type": "string"}}}
    made = await act(owner, "create", name="Writer", engine="agent", config=config, input_schema=schema)
    agent_id = made["agent_id"]
    fields: dict[str, Any] = {"config": config} if action == "update" else {}

    async with await psycopg.AsyncConnection.connect(stack.database_url) as colleague:
        await colleague.execute("select 1 from public.agents where id = %s for update", [agent_id])
        changing = asyncio.create_task(owner.post("agents", {"action": action, "agent_id": agent_id, **fields}))
        await until(lambda: waits_for_a_lock(stack.database_url, f"{action}_agent"))
        await colleague.execute(
            'update public.agent_versions set input_schema = \'{"type": "object"}\' where agent_id = %s', [agent_id]
        )
        await colleague.execute("update public.agents set updated_at = private.clock() where id = %s", [agent_id])
        await colleague.commit()
    response = await changing

    assert (response.status_code, response.json()["message"]) == (400, PROBLEM)


async def test_an_account_makes_so_many_versions_a_day(owner: Visitor, stack: Stack):
    agent_id, account_id = await make(owner), await account_of(owner)
    async with connect(stack.database_url) as connection:
        await connection.execute(
            "insert into public.agent_versions (agent_id, number, engine) select %s, n, 'agent'"
            " from generate_series(2, 499) n",
            [agent_id],
        )

    last = await act(owner, "update", agent_id=agent_id, price=1)
    another = await owner.post("agents", {"action": "create", "name": "One more", "engine": "prompt"})
    in_place = await act(owner, "update", agent_id=agent_id, price=2)
    async with connect(stack.database_url) as connection:
        await connection.execute(
            "update public.agent_versions v set created_at = v.created_at - interval '1 day' from public.agents a"
            " where a.id = v.agent_id and a.account_id = %s and v.published_at is null",
            [account_id],
        )
    tomorrow = await owner.post("agents", {"action": "create", "name": "One more", "engine": "prompt"})

    assert (another.status_code, another.json()["code"]) == (429, "limit_exceeded")
    assert in_place["draft_version_id"] == last["draft_version_id"]
    assert tomorrow.status_code == 201


async def test_its_admins_see_the_form_of_a_draft_beside_the_one_that_is_published(owner: Visitor):
    def schema(name: str) -> dict[str, Any]:
        return {"type": "object", "properties": {name: {"type": "string"}}}

    made = await act(owner, "create", name="Writer", engine="prompt", input_schema=schema("topic"))
    agent_id = made["agent_id"]
    unpublished = await act(owner, "get", agent_id=agent_id)
    await act(owner, "publish", agent_id=agent_id)
    await act(owner, "update", agent_id=agent_id, input_schema=schema("subject"))
    shown = await act(owner, "get", agent_id=agent_id)

    assert unpublished["form"] == []
    assert [field["name"] for field in unpublished["editing"]["draft"]["form"]] == ["topic"]
    assert [field["name"] for field in shown["form"]] == ["topic"]
    assert [field["name"] for field in shown["editing"]["draft"]["form"]] == ["subject"]
