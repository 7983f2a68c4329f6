"""Our worker with a no-op engine: decide, record, perform, record."""

from __future__ import annotations

import time

from bench.work import LEASE_SECONDS, STEP_BOUND, STEP_COST, queue_runs
from shared.direct_database import DirectDatabase
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


async def worker(url: str, *, runs: int, steps: int, at_a_time: int) -> float:
    """Seconds from the first claim to the last end."""
    await queue_runs(url, runs)
    async with DirectDatabase(url) as database:
        options = WorkerOptions(concurrency=at_a_time, lease_seconds=LEASE_SECONDS)
        contender = Worker(RunStore(database), {"bench": NoOpEngine(steps)}, options=options)
        start = time.perf_counter()
        await contender.run(until_idle=True)
        seconds = time.perf_counter() - start
    assert contender.left == {"completed": runs}, contender.left
    return seconds
