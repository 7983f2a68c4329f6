"""What the tests of the history share: runs as they would have been left, and those who look at them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from tests.functions.visitor import Visitor
from tests.support.agents import PUBLISHED_AGENT
from tests.support.runs import connect


async def ids(visitor: Visitor, **query: object) -> list[str]:
    """The ids of one page, expecting success."""
    return [run["id"] for run in (await page(visitor, **query))["runs"]]


async def page(visitor: Visitor, **query: object) -> dict[str, Any]:
    response = await visitor.get("agent-status", **query)
    assert response.status_code == 200, response.text
    return response.json()


async def all_ids(visitor: Visitor, **query: object) -> list[str]:
    """The ids of all pages."""
    found: list[str] = []
    answer = await page(visitor, **query)
    found += [run["id"] for run in answer["runs"]]
    while answer["next_cursor"] is not None:
        answer = await page(visitor, **query, cursor=answer["next_cursor"])
        found += [run["id"] for run in answer["runs"]]
    return found


async def ended_run(url: str, account_id: str, **columns: Any) -> str:
    """A run of the account that completed after two seconds; `columns` say what is different."""
    row = {
        "account_id": account_id, "user_id": account_id, "engine": "list", "status": "completed", "input": {},
        "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:02Z", **columns,
    }  # fmt: skip
    names = ", ".join(row)
    async with connect(url) as connection:
        cursor = await connection.execute(
            f"insert into public.agent_runs ({names}) select {names}"
            " from jsonb_populate_record(null::public.agent_runs, %s) returning id::text",
            [orjson.dumps(row).decode()],
        )
        (run_id,) = await cursor.fetchone() or ()
    return run_id


async def many_runs(url: str, account_id: str, count: int, **columns: Any) -> None:
    """So many runs of an account, one a second, the newest a day ago; `columns` stand in each."""
    async with connect(url) as connection:
        await connection.execute(
            "insert into public.agent_runs (account_id, engine, status, finished_at, created_at, input, output)"
            " select %s, 'list', %s, now(), now() - interval '1 day' - n * interval '1 s', %s, %s"
            " from generate_series(1, %s) n",
            [
                account_id,
                columns.get("status", "completed"),
                orjson.dumps(columns.get("input", {})).decode(),
                orjson.dumps(columns.get("output")).decode(),
                count,
            ],
        )


async def agent_of(url: str, account_id: str, name: str = "Agent") -> str:
    """A published agent of an account."""
    async with connect(url) as connection:
        (agent_id,) = await (await connection.execute(PUBLISHED_AGENT, [account_id, None])).fetchone() or ()
        await connection.execute("update public.agents set name = %s where id = %s", [name, agent_id])
    return agent_id


async def version_of(url: str, agent_id: str) -> str:
    async with connect(url) as connection:
        statement = "select current_version_id::text from public.agents where id = %s"
        (version_id,) = await (await connection.execute(statement, [agent_id])).fetchone() or ()
    return version_id


async def account_of(visitor: Visitor) -> str:
    """The personal account of a caller, who has one from signing up."""
    run_id = (await visitor.create())["run_id"]
    await visitor.act("stop", run_id)
    return (await visitor.run(run_id))["account_id"]


async def member(url: str, user_id: str, account_id: str, role: str) -> None:
    async with connect(url) as connection:
        await connection.execute(
            "insert into public.account_members (account_id, user_id, role) values (%s, %s, %s)",
            [UUID(account_id), UUID(user_id), role],
        )
