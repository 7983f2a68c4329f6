"""A run that takes its worker down with it: it fails as poison, and everybody else's runs go on."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

from shared.runs.store import RunStore
from tests.runs.queueing import take
from tests.runs.test_kills import worker_process
from tests.support.clock import shift_clock
from tests.support.runs import Person, assert_books_balance, connect, run_row, step_rows, until_status

MAX_ATTEMPTS = 5  # the column's default


async def test_a_run_that_kills_its_worker_each_time_fails_as_poison_and_leaves_the_others_alone(
    person: Person, database_url: str, tmp_path: Path
) -> None:
    """The process dies by SIGKILL with all that it holds, and all have lost it as often as the poison has.

    So each is tried alone until it has come a step further.
    """
    poison = await person.queue(input={"kills": True})
    others = [await person.queue(input={"n": n}) for n in range(3)]
    calls = tmp_path / "calls"
    deaths = 0
    async with connect(database_url) as connection:
        while (await run_row(database_url, poison))["status"] != "failed":
            async with worker_process(database_url, calls, KILL_AT="s2") as process:
                dies = asyncio.create_task(process.wait())
                ends = asyncio.create_task(until_status(database_url, poison, "failed"))
                await asyncio.wait({dies, ends}, return_when=asyncio.FIRST_COMPLETED)
                if dies.done():
                    assert dies.result() == -signal.SIGKILL
                    deaths += 1
                for task in (dies, ends):
                    task.cancel()
                await asyncio.gather(dies, ends, return_exceptions=True)
            await shift_clock(connection, seconds=16)
        async with worker_process(database_url, calls):
            for run_id in others:
                await until_status(database_url, run_id, "completed", "failed")

    row = await run_row(database_url, poison)
    assert (deaths, row["error"]["code"]) == (MAX_ATTEMPTS, "poison")
    assert [step["status"] for step in await step_rows(database_url, poison)] == ["completed", "cancelled"]
    rows = [await run_row(database_url, run_id) for run_id in others]
    assert [other["status"] for other in rows] == ["completed"] * 3
    performed = Counter(line.split()[0] for line in calls.read_text().splitlines())
    assert performed["s1"] >= len(rows) + 1
    await assert_books_balance(database_url, person.id)


async def test_a_suspect_that_is_given_back_is_still_handed_out_alone(
    store: RunStore, person: Person, database_url: str
) -> None:
    """Giving it back in order clears nothing: it has not come a step further."""
    suspect = await person.queue()
    async with connect(database_url) as connection:
        for _ in range(2):
            await take(store)
            await shift_clock(connection, seconds=16)
    lost_twice = (await take(store))[suspect]
    others = {await person.queue() for _ in range(3)}
    await lost_twice.give_back()

    assert list(await take(store)) == [suspect]
    assert set(await take(store)) == others
