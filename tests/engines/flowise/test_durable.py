"""Flows on a real database, with a real worker and vault, and a Flowise server of the recorded shapes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from local.config import PROJECT_DIR
from local.stand_ins.flowise import STORED_KEY, FlowiseServer, Turn
from shared.direct_database import DirectDatabase
from tests.engines.flowise.people import open_shop, work_off, working
from tests.support.canaries import canary, leaks_in
from tests.support.clock import shift_clock
from tests.support.runs import (
    assert_books_balance,
    connect,
    log_lines,
    run_row,
    step_rows,
    until,
    until_status,
)
from tests.vault.people import add_credential, ring

CHATFLOW = {"OpenAI": ("openAIApiKey",)}
AGENTFLOW = {"LLM": ("openAIApiKey",)}


async def rows(url: str, statement: str, *values: object) -> list[Any]:
    async with connect(url) as connection:
        return [row[0] for row in await (await connection.execute(statement, values)).fetchall()]


async def everything_of(url: str, run_id: UUID) -> str:
    """All that the run's people may read of it, and all that was broadcast."""
    tables = ("agent_runs", "agent_steps", "agent_messages", "agent_task_logs", "human_requests")
    found = [
        await rows(url, f"select to_jsonb(t)::text from public.{table} t where t.{key} = %s", run_id)
        for table in tables
        for key in (["id"] if table == "agent_runs" else ["run_id"])
    ]
    found.append(await rows(url, "select payload::text from realtime.messages"))
    return str(found)


@asynccontextmanager
async def worker_process(url: str, **environment: str) -> AsyncGenerator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.engines.flowise.worker_process",
        url,
        cwd=PROJECT_DIR,
        env={**os.environ, "PYTHONPATH": str(PROJECT_DIR), **environment},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_buyer_runs_a_sellers_flow_with_a_key_that_nobody_sees(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer
) -> None:
    shop = await open_shop(database_url, flowise, flowise.chatflow(Turn("Hello buyer"), enabled=CHATFLOW))
    run_id = await shop.run()

    await work_off(database)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]) == ("completed", None)
    assert row["output"]["text"] == "Hello buyer"
    assert flowise.calls[0].key == shop.key
    assert flowise.predictions[0].headers["authorization"] == f"Bearer {flowise.key}"
    opened = await rows(
        database_url,
        "select c.provider from public.credential_access_log l join public.credentials c on c.id = l.credential_id"
        " where l.run_id = %s order by c.provider",
        run_id,
    )
    assert opened == ["flowise", "openai"]
    assert leaks_in(await everything_of(database_url, run_id)) == []
    await assert_books_balance(database_url, shop.buyer.id)


async def test_what_the_nodes_do_is_in_the_log_while_the_flow_is_at_work(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer
) -> None:
    flow = flowise.agentflow(Turn("One two three", hangs=True, after=1), enabled=AGENTFLOW)
    shop = await open_shop(database_url, flowise, flow)
    run_id = await shop.run()

    async def lines() -> list[str]:
        return [message for _, kind, message in await log_lines(database_url, run_id) if kind != "state_transition"]

    async with working(database):

        async def begun() -> bool:
            return await lines() == ["Start: finished"]

        await until(begun)
        flowise.release()
        row = await until_status(database_url, run_id, "completed", "failed")

    assert row["status"] == "completed"
    assert await lines() == ["Start: finished", "LLM: finished"]


async def test_a_sellers_key_goes_to_the_sellers_server_and_not_to_one_that_a_buyer_names(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer
) -> None:
    sellers_key = canary()
    flow = flowise.chatflow(enabled=CHATFLOW)
    shop = await open_shop(database_url, flowise, flow, sellers_key=sellers_key)
    with FlowiseServer("a-key-of-the-buyers-own-server") as elsewhere:
        elsewhere.flows[flow.id] = flow
        own = await add_credential(shop.buyer, ring(1), "flowise", base_url=elsewhere.url, api_key=elsewhere.key)
        stolen = await shop.run(credentials={"flowise": str(own)})
        honest = await shop.run()

        await work_off(database)

        row = await run_row(database_url, stolen)
        assert (row["status"], row["error"]["code"]) == ("failed", "invalid_input")
        assert elsewhere.requests == []
    assert (await run_row(database_url, honest))["status"] == "completed"
    assert [call.key for call in flowise.calls] == [sellers_key]


async def test_a_buyer_may_take_his_own_key_to_a_server_of_his_own(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer
) -> None:
    flow = flowise.chatflow(enabled=CHATFLOW)
    shop = await open_shop(database_url, flowise, flow)
    with FlowiseServer("a-key-of-the-buyers-own-server") as elsewhere:
        elsewhere.flows[flow.id] = flow
        own = await add_credential(shop.buyer, ring(1), "flowise", base_url=elsewhere.url, api_key=elsewhere.key)
        run_id = await shop.run(credentials={"flowise": str(own)})

        await work_off(database)

        assert [call.key for call in elsewhere.calls] == [shop.key]
    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert flowise.requests == []


@pytest.mark.parametrize("kind", ["chatflow", "agentflow"])
async def test_a_flow_that_tells_the_keys_tells_them_to_nobody(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer, kind: str
) -> None:
    """Also in pieces: the stream is cut at each blank, and after the model's echo Flowise's own one comes."""
    told = Turn(lambda call: f"The key is {call.key[:9]} {call.key[9:]} or {call.key}, and mine is {flowise.key}.")
    enabled = CHATFLOW if kind == "chatflow" else AGENTFLOW
    shop = await open_shop(database_url, flowise, getattr(flowise, kind)(told, enabled=enabled))
    run_id = await shop.run()

    await work_off(database)

    kept = await everything_of(database_url, run_id)
    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert flowise.key not in kept
    assert shop.key not in kept
    assert "[redacted]" in kept


async def test_a_key_in_what_a_failed_flow_says_is_not_kept(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer
) -> None:
    flow = flowise.chatflow(enabled=CHATFLOW)
    shop = await open_shop(database_url, flowise, flow)
    flow.turns.append(Turn(fails=f"401 Incorrect API key provided: {shop.key}"))
    run_id = await shop.run()

    await work_off(database)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "model_key_refused")
    assert "Incorrect API key" in row["error"]["details"]["flowise"]
    assert leaks_in(await everything_of(database_url, run_id)) == []


async def test_a_key_that_the_flow_would_ignore_fails_the_run_before_anything_is_asked(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer
) -> None:
    shop = await open_shop(database_url, flowise, flowise.chatflow())
    run_id = await shop.run()

    await work_off(database)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "injection_denied")
    assert flowise.predictions == []
    assert STORED_KEY not in str(row)


async def test_nothing_of_the_agents_settings_is_in_what_its_runners_read(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer
) -> None:
    flow = flowise.chatflow(Turn(fails="boom"), enabled=CHATFLOW)
    shop = await open_shop(database_url, flowise, flow)
    run_id = await shop.run()

    await work_off(database)

    kept = await everything_of(database_url, run_id)
    assert [secret for secret in (flow.id, flowise.url, "openAIApiKey") if secret in kept] == []


async def test_a_flow_asks_its_person_and_goes_on_on_another_worker(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer
) -> None:
    flow = flowise.agentflow(Turn("May I?", asks=True), enabled=AGENTFLOW)
    shop = await open_shop(database_url, flowise, flow)
    run_id = await shop.run()
    await work_off(database)
    assert (await run_row(database_url, run_id))["status"] == "awaiting_input"

    await shop.buyer.call("respond_run", run_id, '"Proceed"')
    await work_off(database)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["output"]["text"]) == ("completed", "proceed:")
    said = await rows(
        database_url,
        "select content -> 0 ->> 'text' from public.agent_messages where run_id = %s order by message_no",
        run_id,
    )
    assert said == ["Hi", "May I?", "Proceed", "proceed:"]
    lines = await log_lines(database_url, run_id)
    assert [message for _, kind, message in lines if kind == "user_input_required"] == ["May I?"]


async def test_a_stopped_run_aborts_its_flow_and_ends_at_once(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer
) -> None:
    flow = flowise.agentflow(Turn("one two", hangs=True, after=1), enabled=AGENTFLOW)
    shop = await open_shop(database_url, flowise, flow)
    run_id = await shop.run()

    async with working(database):
        await flowise.until(lambda: flowise.executed)
        await shop.buyer.call("control_run", run_id, "stop")
        await until_status(database_url, run_id, "cancelled")

    assert flowise.aborted == [flowise.predictions[0].body["chatId"]]
    await flowise.until(lambda: flowise.executed[0]["state"] == "ERROR")


async def test_a_run_that_is_given_back_is_asked_again_by_the_next_worker(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer
) -> None:
    flow = flowise.agentflow(Turn("one two", hangs=True, after=1), Turn("again"), enabled=AGENTFLOW)
    shop = await open_shop(database_url, flowise, flow)
    run_id = await shop.run()
    async with working(database):
        await flowise.until(lambda: flowise.executed)

    await work_off(database)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["output"]["text"]) == ("completed", "again")
    assert len({one.body["chatId"] for one in flowise.predictions}) == 2


@pytest.mark.parametrize("kind", ["chatflow", "agentflow"])
@pytest.mark.parametrize("point", ["before_perform", "before_model_call", "after_model_call", "after_perform"])
async def test_a_worker_killed_around_its_call_asks_the_flow_once(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer, kind: str, point: str
) -> None:
    enabled = CHATFLOW if kind == "chatflow" else AGENTFLOW
    shop = await open_shop(database_url, flowise, getattr(flowise, kind)(Turn("first"), enabled=enabled))
    run_id = await shop.run()
    async with worker_process(database_url, RUNBASE_CRASH_POINT=point) as process:
        assert await process.wait() == -signal.SIGKILL
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=16)

    await work_off(database)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["output"]["text"]) == ("completed", "first")
    assert len(flowise.predictions) == 1
    assert [step["key"] for step in await step_rows(database_url, run_id)] == ["predict.1"]
    await assert_books_balance(database_url, shop.buyer.id)


async def test_a_worker_killed_while_an_agentflow_is_at_work_leaves_it_to_the_next(
    database: DirectDatabase, database_url: str, flowise: FlowiseServer
) -> None:
    flow = flowise.agentflow(Turn("one two three", hangs=True, after=1), enabled=AGENTFLOW)
    shop = await open_shop(database_url, flowise, flow)
    run_id = await shop.run()
    async with worker_process(database_url) as process:
        await flowise.until(lambda: flowise.executed)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=16)

    async with working(database):
        await flowise.until(lambda: [one for one in flowise.requests if one.path.endswith("/executions")])
        flowise.release()
        row = await until_status(database_url, run_id, "completed", "failed")

    assert row["output"]["text"] == "one two three"
    assert len(flowise.predictions) == 1
