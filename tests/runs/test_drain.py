"""The drain: the worker with a time budget."""

from __future__ import annotations

from shared.direct_database import DirectDatabase
from shared.runs.drain import drain
from shared.runs.worker import WorkerOptions
from tests.runs.engines import ListEngine, steps
from tests.support.runs import (
    Person,
    run_row,
    step_rows,
)


async def test_a_drain_starts_no_step_that_exceeds_its_time_and_gives_the_run_back(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    tally = await drain(database, {"list": ListEngine(steps(1, timeout_seconds=600))}, seconds=5)

    assert tally.to_json() == {"claimed": 1, "left": {"queued": 1}, "swept": 0}
    assert await step_rows(database_url, run_id) == []


async def test_a_drain_works_off_what_is_due_and_answers_a_tally(database: DirectDatabase, person: Person) -> None:
    for _ in range(3):
        await person.queue()

    tally = await drain(database, {"list": ListEngine(steps(2, timeout_seconds=5))}, seconds=30)

    assert tally.to_json() == {"claimed": 3, "left": {"completed": 3}, "swept": 0}


async def test_a_step_that_no_host_could_ever_run_fails_at_start(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    options = WorkerOptions(longest_step_seconds=840)

    await drain(database, {"list": ListEngine(steps(1, timeout_seconds=3600))}, seconds=30, options=options)

    assert (await run_row(database_url, run_id))["error"]["code"] == "step_too_long"
