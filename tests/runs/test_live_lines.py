"""What a step says while it is performed is in the run's log before the step has ended."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, Outcome, StepContext
from shared.runs.models import NewLog, Records, Step
from shared.runs.performer import LIVE_LINES
from shared.runs.store import RunStore
from shared.runs.worker import Worker
from shared.vault.opening import Vault
from tests.runs.engines import ListEngine, Perform, steps
from tests.runs.working import QUICK, work_off, working
from tests.support.canaries import canary, leaks_in
from tests.support.runs import Person, connect, log_lines, until, until_status
from tests.support.wires import LosingDatabase
from tests.vault.people import add_credential, ring

KEYS = ring(1)


async def said(url: str, run_id: UUID) -> list[str]:
    """The lines of steps, in order."""
    return [message for _, kind, message in await log_lines(url, run_id) if kind != "state_transition"]


def saying(*messages: str, before: asyncio.Event | None = None) -> Perform:
    """A step that says these, waits, and says "end" with its outcome."""

    async def perform(step: Step, ctx: StepContext) -> Outcome:
        del step
        for message in messages:
            ctx.log(NewLog("info", message, {"of": "a node"}))
        if before is not None:
            await before.wait()
        return Done({}, Records(logs=(NewLog("info", "end"),)))

    return perform


async def test_a_line_can_be_read_while_its_step_goes_on(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    seen = asyncio.Event()

    async with working(database, ListEngine(steps(1), saying("first", "second", before=seen))):

        async def both() -> bool:
            return await said(database_url, run_id) == ["first", "second"]

        await until(both)
        seen.set()
        await until_status(database_url, run_id, "completed")

    assert await said(database_url, run_id) == ["first", "second", "end"]


async def test_a_line_is_there_once_when_somebody_else_writes_to_the_run_at_that_moment(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    async def perform(step: Step, ctx: StepContext) -> Outcome:
        del step
        async with connect(database_url) as connection:  # as an answer of a person does
            await connection.execute("update public.agent_runs set revision = revision + 1 where id = %s", [run_id])
        ctx.log(NewLog("info", "said"))

        async def there() -> bool:
            return "said" in await said(database_url, run_id)

        await until(there)
        return Done()

    await work_off(database, ListEngine(steps(1), perform))

    assert await said(database_url, run_id) == ["said"]


@pytest.mark.parametrize("call", [1, 2, 3])
async def test_no_line_is_lost_where_an_answer_of_the_database_is(
    database: DirectDatabase, person: Person, database_url: str, call: int
) -> None:
    run_id = await person.queue()
    losing = LosingDatabase(database, ("advance_runs", call))

    await work_off(losing, ListEngine(steps(2), saying("said")))

    assert [line for line in await said(database_url, run_id) if line == "end"] == ["end", "end"]
    assert 2 <= (await said(database_url, run_id)).count("said") <= 3


async def test_lines_show_no_secret_that_the_step_has_opened(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    credential_id = await add_credential(person, KEYS, api_key=canary())
    run_id = await person.queue(credentials={"openai": str(credential_id)})

    async def perform(step: Step, ctx: StepContext) -> Outcome:
        del step
        async with ctx.open_credential("openai") as credential:
            key = credential.fields["api_key"].reveal()
            ctx.log(NewLog("info", f"Calling with {key}", {"given": [key]}))
        return Done()

    worker = Worker(
        RunStore(database), {"list": ListEngine(steps(1), perform)}, options=QUICK, vault=Vault(database, KEYS)
    )
    await worker.run(until_idle=True)

    (line,) = await said(database_url, run_id)
    assert line.startswith("Calling with ")
    assert leaks_in(line) == []


async def test_a_flood_of_lines_is_cut_and_counted(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await person.queue()
    flood = (f"line {number}" for number in range(LIVE_LINES + 7))

    await work_off(database, ListEngine(steps(1), saying(*flood)))

    lines = await said(database_url, run_id)
    assert lines[:LIVE_LINES] == [f"line {number}" for number in range(LIVE_LINES)]
    assert lines[LIVE_LINES:] == ["7 more lines of Step 1 were left out", "end"]


async def test_a_step_that_fails_has_said_what_it_said(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    async def perform(step: Step, ctx: StepContext) -> Outcome:
        del step
        ctx.log(NewLog("info", "about to break"))
        raise RuntimeError("broken")

    await work_off(database, ListEngine(steps(1), perform))

    assert "about to break" in await said(database_url, run_id)
