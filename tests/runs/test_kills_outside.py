"""A worker killed right before or after a call to the outside: each effect happens as often as was promised."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from shared.direct_database import DirectDatabase
from shared.runs.drain import drain
from shared.runs.performer import OUTCOME_UNKNOWN
from tests.engines.scripts import PROMPT, phase
from tests.runs.outside import KeyedProvider, agent_engine
from tests.runs.test_kills import worker_process
from tests.support.clock import shift_clock
from tests.support.model_server import ModelServer, Reply
from tests.support.runs import Person, assert_books_balance, connect, log_lines, run_row, step_rows

REPLIES = (
    Reply.json({"goal": "All is sent.", "phases": [phase("only", tools=["note", "send"])]}),
    Reply.tool("note", {}),
    Reply.tool("send", {}),
    Reply.tool("finish_phase", {"summary": "It is sent.", "success": True}),
)
PLAN, SEND = 0, 2  # which of the model's calls dies
NOTE, SENDING = 0, 1  # which of the tools' calls


async def kill_and_drain(person: Person, url: str, calls: Path, server: ModelServer, point: str, skip: int) -> UUID:
    """Run an agent until its worker dies at the crash point, then drain once more."""
    run_id = await person.queue(engine="agent", input={"prompt": PROMPT})
    armed = {"RUNBASE_CRASH_POINT": point, "RUNBASE_CRASH_SKIP": str(skip)}
    async with worker_process(url, calls, MODEL_URL=server.url, **armed) as process:
        assert await process.wait() == -signal.SIGKILL
    async with connect(url) as connection:
        await shift_clock(connection, seconds=16)
    await drain_again(url, calls, server)
    return run_id


async def drain_again(url: str, calls: Path, server: ModelServer) -> None:
    async with DirectDatabase(url) as database:
        await drain(database, {"agent": agent_engine(server.url, calls)}, seconds=600)


def effects(calls: Path) -> dict[str, list[int]]:
    """For each tool: how often each of its effect keys came."""
    counted = Counter(calls.read_text().splitlines() if calls.exists() else [])
    found: dict[str, list[int]] = {"note": [], "send": []}
    for line, times in counted.items():
        found[line.split()[0]].append(times)
    return found


async def assert_all_is_well(url: str, person: Person, run_id: UUID) -> None:
    row = await run_row(url, run_id)
    assert (row["status"], row["output"]["summary"]) == ("completed", "It is sent.")
    assert all(step["status"] in {"completed", "failed"} for step in await step_rows(url, run_id))
    lines = await log_lines(url, run_id)
    assert [seq for seq, _, _ in lines] == list(range(1, len(lines) + 1))
    await assert_books_balance(url, person.id)


@pytest.mark.parametrize(
    ("point", "call", "times"),
    [("before_model_call", PLAN, 1), ("after_model_call", PLAN, 2), ("after_model_call", SEND, 2)],
)
async def test_a_model_call_that_died_is_repeated_under_its_key_and_no_other_is(
    person: Person, database_url: str, tmp_path: Path, model_server: ModelServer, point: str, call: int, times: int
) -> None:
    provider = model_server.otherwise = KeyedProvider(*REPLIES)

    run_id = await kill_and_drain(person, database_url, tmp_path / "calls", model_server, point, call)

    asked = list(provider.asked.values())
    assert asked == [times if place == call else 1 for place in range(len(REPLIES))]
    assert effects(tmp_path / "calls") == {"note": [1], "send": [1]}
    await assert_all_is_well(database_url, person, run_id)


@pytest.mark.parametrize(("point", "times"), [("before_tool_call", 1), ("after_tool_call", 2)])
async def test_an_idempotent_tool_call_that_died_is_repeated_under_its_key(
    person: Person, database_url: str, tmp_path: Path, model_server: ModelServer, point: str, times: int
) -> None:
    provider = model_server.otherwise = KeyedProvider(*REPLIES)

    run_id = await kill_and_drain(person, database_url, tmp_path / "calls", model_server, point, NOTE)

    assert effects(tmp_path / "calls") == {"note": [times], "send": [1]}
    assert set(provider.asked.values()) == {1}
    await assert_all_is_well(database_url, person, run_id)


@pytest.mark.parametrize(("point", "taken"), [("before_tool_call", []), ("after_tool_call", [1])])
async def test_an_effectful_tool_call_that_died_is_never_repeated_and_a_person_is_asked(
    person: Person, database_url: str, tmp_path: Path, model_server: ModelServer, point: str, taken: list[int]
) -> None:
    provider = model_server.otherwise = KeyedProvider(*REPLIES)
    calls = tmp_path / "calls"

    run_id = await kill_and_drain(person, database_url, calls, model_server, point, SENDING)

    assert (await run_row(database_url, run_id))["status"] == "awaiting_input"
    died = next(step for step in await step_rows(database_url, run_id) if step["name"] == "send")
    assert (died["status"], died["error"]["code"]) == ("failed", OUTCOME_UNKNOWN)

    await person.call("respond_run", run_id, '"I do not know"')
    await drain_again(database_url, calls, model_server)

    assert effects(calls) == {"note": [1], "send": taken}
    assert set(provider.asked.values()) == {1}
    await assert_all_is_well(database_url, person, run_id)
