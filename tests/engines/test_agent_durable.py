"""The agent on a real database, with a real worker, the real tools and a provider's own SDK over HTTP."""

from __future__ import annotations

from typing import Any

from shared.direct_database import DirectDatabase
from shared.engines.registry import engines_from_env
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions
from tests.engines.scripts import PROMPT, phase
from tests.support.model_server import ModelServer, Reply
from tests.support.runs import (
    Person,
    assert_books_balance,
    connect,
    log_lines,
    run_row,
    set_available,
    step_rows,
)

DEMO = "Write a hello world program in Python"
PLAN = Reply.json({"goal": "A greeting.", "phases": [phase("greet", tools=["message", "write_file", "code"])]})
DONE = Reply.tool("finish_phase", {"summary": "Everybody was greeted.", "success": True})


async def work_off(database: DirectDatabase, **env: str) -> None:
    """Work until nothing is due, as a worker that has just started."""
    options = WorkerOptions(heartbeat_seconds=0.5, poll_seconds=0.1)
    await Worker(RunStore(database), engines_from_env(env), options=options).run(until_idle=True)


def anthropic(server: ModelServer) -> dict[str, str]:
    return {"ANTHROPIC_API_KEY": "sk-ant-test", "ANTHROPIC_BASE_URL": server.url}


async def rows(url: str, statement: str, *values: object) -> list[Any]:
    async with connect(url) as connection:
        return [row[0] for row in await (await connection.execute(statement, values)).fetchall()]


async def test_the_demo_runs_from_prompt_to_stored_program(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue(engine="agent", input={"prompt": DEMO})

    await work_off(database)

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]) == ("completed", None)
    assert row["output"]["artifacts"] == ["hello.py"]
    stored = await rows(database_url, "select content from public.agent_artifacts where run_id = %s", run_id)
    assert 'print("Hello, world!")' in stored[0]
    ran = next(step for step in await step_rows(database_url, run_id) if step["name"] == "code")
    assert ran["output"]["result"]["stdout"] == "Hello, world!\n"
    kinds = [line[1] for line in await log_lines(database_url, run_id)]
    assert kinds.count("tool_success") == 3
    assert kinds.count("phase_advance") == 2
    await assert_books_balance(database_url, person.id)


async def test_a_run_over_the_sdk_asks_its_user_and_goes_on_on_another_worker(
    database: DirectDatabase, person: Person, database_url: str, model_server: ModelServer
) -> None:
    model_server.script(PLAN, Reply.tool("ask_user", {"question": "Which?", "options": ["red", "blue"]}))
    run_id = await person.queue(engine="agent", input={"prompt": PROMPT})
    await work_off(database, **anthropic(model_server))
    assert (await run_row(database_url, run_id))["status"] == "awaiting_input"

    model_server.script(Reply.tool("message", {"text": "Hello in blue"}), DONE)
    await person.call("respond_run", run_id, '"blue"')
    await work_off(database, **anthropic(model_server))

    row = await run_row(database_url, run_id)
    assert (row["status"], row["output"]["summary"]) == ("completed", "Everybody was greeted.")
    assert "The user answered: blue" in str(model_server.requests[2].body["messages"][-1])
    said = await rows(
        database_url,
        "select content -> 0 ->> 'text' from public.agent_messages where run_id = %s and role <> 'tool'"
        " and content -> 0 ->> 'type' = 'text' order by message_no",
        run_id,
    )
    assert said == [PROMPT, "Which?", "blue", "Hello in blue"]


async def test_garbage_over_http_ends_in_a_readable_failure_and_right_books(
    database: DirectDatabase, person: Person, database_url: str, model_server: ModelServer
) -> None:
    model_server.script(PLAN, Reply.bad_tool("code", '{"code": '), Reply.empty(), Reply.empty(), Reply.empty())
    run_id = await person.queue(engine="agent", input={"prompt": PROMPT})

    await work_off(database, **anthropic(model_server))

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "model_silent")
    lines = [line for line in await log_lines(database_url, run_id) if line[1] in {"warning", "error"}]
    assert [kind for _, kind, _ in lines] == ["warning"] * 5 + ["error"]
    await assert_books_balance(database_url, person.id)


async def test_a_wrong_key_fails_the_run_with_the_providers_refusal(
    database: DirectDatabase, person: Person, database_url: str, model_server: ModelServer
) -> None:
    model_server.script(Reply.error(401, kind="authentication_error"))
    run_id = await person.queue(engine="agent", input={"prompt": PROMPT})

    await work_off(database, **anthropic(model_server))

    row = await run_row(database_url, run_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "upstream_refused")


async def test_a_run_that_cannot_pay_its_next_call_pauses_and_goes_on_with_credits(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    await set_available(database_url, person.id, 100)
    run_id = await person.queue(engine="agent", input={"prompt": DEMO})
    await work_off(database)
    assert (await run_row(database_url, run_id))["status"] == "paused"

    await set_available(database_url, person.id, 500_000_000)
    await person.call("control_run", run_id, "resume")
    await work_off(database)

    assert (await run_row(database_url, run_id))["status"] == "completed"
