"""A worker in a process of its own, for tests that kill it. Arguments: database url, file that counts performances.

Its `list` engine performs three steps; each performance appends a line to the file before the step answers, as an
outside service would count calls. RUNBASE_CRASH_POINT arms a crash point; HANG_AT names the step that never ends,
KILL_AT the step that kills the process where the run's input says {"kills": true}. MODEL_URL adds an agent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, Engine, Outcome, StepContext
from shared.runs.models import NewLog, Records, Step
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions
from tests.runs.engines import ListEngine, forever, steps

LEASE_SECONDS = 15.0


async def main(url: str, calls: Path) -> None:
    async def counted(step: Step, ctx: StepContext) -> Outcome:
        with calls.open("a") as file:
            file.write(f"{step.key} {step.effect_key}\n")
        if ctx.run.input.get("kills") and os.environ.get("KILL_AT") == step.key:
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("HANG_AT") == step.key:
            return await forever(step, ctx)
        return Done({"key": step.key}, Records(logs=(NewLog("info", step.key),)), credits=10)

    async with DirectDatabase(url) as database:
        options = WorkerOptions(poll_seconds=0.1, lease_seconds=LEASE_SECONDS, heartbeat_seconds=0.5, snapshot_steps=1)
        engines: dict[str, Engine[Any]] = {"list": ListEngine(steps(3, credits_bound=50), counted)}
        if "MODEL_URL" in os.environ:
            # Imported here: the agent takes 0.4 s of the processor, in each of the many processes that have none.
            from tests.runs.outside import agent_engine

            engines["agent"] = agent_engine(os.environ["MODEL_URL"], calls)
        await Worker(RunStore(database), engines, options=options).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
