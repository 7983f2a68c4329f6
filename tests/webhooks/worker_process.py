"""A worker in a process of its own, for tests that kill it: each step calls out, and the answer comes at once.

Arguments: database url, file that counts the calls. RUNBASE_CRASH_POINT arms a crash point.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from uuid import UUID

from shared.direct_database import DirectDatabase
from shared.runs.engine import Outcome, StepContext
from shared.runs.models import Step
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions
from tests.runs.engines import ListEngine, steps
from tests.support.runs import Person
from tests.webhooks.waits import deliver, waiting


async def main(url: str, calls: Path) -> None:
    async def call_out(step: Step, ctx: StepContext) -> Outcome:
        with calls.open("a") as file:
            file.write(f"{step.key} {step.effect_key}\n")
        if step.key == "s1":  # the callback is faster than the wait; that of s2 comes later
            await deliver(Person(url, UUID(int=0)), ctx.run.id, step.step_no, payload={"of": step.key})
        return waiting(ctx.run.id, step.step_no)

    async with DirectDatabase(url) as database:
        options = WorkerOptions(poll_seconds=0.1, heartbeat_seconds=0.5)
        await Worker(RunStore(database), {"list": ListEngine(steps(2), call_out)}, options=options).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
