"""Runbase over the direct wire: one worker with a no-op engine: decide, record, perform, record."""

from __future__ import annotations

from bench.contender import Stopwatch, Taken, check, contend
from bench.work import LEASE_SECONDS, STEP_BOUND, STEP_COST, queue_runs
from shared.database import Database
from shared.direct_database import DirectDatabase
from shared.runs.collector import collect_rarely
from shared.runs.engine import Decision, Done, Finish, Outcome, StartSteps, StepContext, Wait
from shared.runs.models import NewLog, NewStep, Records, RunView, Step, StepResult
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions


class Counter:
    """How many steps are known and ended."""

    def __init__(self) -> None:
        self.known = 0
        self.ended = 0


class NoOpEngine:
    """Performs `steps` steps one after another."""

    name = "bench"

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def open(self, view: RunView) -> Counter:
        state = Counter()
        for result in view.results:
            self.apply(state, result)
        return state

    def started(self, state: Counter, step: Step) -> Counter:
        del step
        state.known += 1
        return state

    def apply(self, state: Counter, result: StepResult) -> Counter:
        del result
        state.ended += 1
        state.known = max(state.known, state.ended)
        return state

    def decide(self, state: Counter) -> Decision:
        if state.ended == self._steps:
            return Finish({"steps": state.ended})
        if state.known > state.ended:
            return Wait()
        key = f"s{state.known + 1}"
        return StartSteps((NewStep(key, "noop", key, effect="pure", credits_bound=STEP_BOUND),))

    async def perform(self, state: Counter, step: Step, ctx: StepContext) -> Outcome:
        del state, ctx
        return Done({"ok": True}, Records(logs=(NewLog("info", step.key),)), STEP_COST)


async def worker(url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    collect_rarely()  # as `runbase worker`
    async with DirectDatabase(url) as database:
        return await drained(database, url, runs=runs, steps=steps, at_a_time=at_a_time)


async def drained(database: Database, url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    """What it takes from the first claim to the last end, over this wire; `url` is for whoever queues the runs."""
    await queue_runs(url, at_a_time)
    await _drain(database, runs=at_a_time, steps=1, at_a_time=at_a_time)
    await queue_runs(url, runs)

    watch = await Stopwatch.started(url)
    await _drain(database, runs=runs, steps=steps, at_a_time=at_a_time)
    taken = watch.stop()

    await check(
        url,
        "select (select count(*) from agent_steps where status = 'completed'),"
        " (select count(*) from agent_runs where status = 'completed')",
        runs * steps + at_a_time,
        runs + at_a_time,
    )
    return taken


async def _drain(database: Database, *, runs: int, steps: int, at_a_time: int) -> None:
    options = WorkerOptions(concurrency=at_a_time, lease_seconds=LEASE_SECONDS)
    worker = Worker(RunStore(database), {"bench": NoOpEngine(steps)}, options=options)
    await worker.run(until_idle=True)
    assert worker.left == {"completed": runs}, worker.left


if __name__ == "__main__":
    contend(worker)
