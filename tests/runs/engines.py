"""Small engines for tests of the run core: they stand for any engine, so the core is shown to know none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from shared.runs.engine import Decision, Done, Fail, Finish, Outcome, Snapshot, StartSteps, StepContext, Wait
from shared.runs.models import NewLog, NewStep, Records, RunView, Step, StepError, StepResult

Perform = Callable[[Step, StepContext], Awaitable[Outcome]]


@dataclass
class Progress:
    """Which steps are known and with what error each ended, None if it completed."""

    known: set[str] = field(default_factory=set)
    results: dict[str, StepError | None] = field(default_factory=dict)


class ListEngine:
    """Performs a list of steps, `width` at a time, then finishes; a failed step fails the run."""

    name = "list"
    snapshot_version = 1

    def __init__(self, steps: list[NewStep], perform: Perform | None = None, *, width: int = 1) -> None:
        self.steps = steps
        self.width = width
        self.performed: list[tuple[str, int, str]] = []
        """Every performance: (key, attempt, effect_key)."""
        self.opened: list[tuple[bool, list[int]]] = []
        """For every view that a state was built from: whether it had a snapshot, and the steps of its results."""
        self._perform = perform

    def open(self, view: RunView) -> Progress:
        self.opened.append((view.snapshot is not None, [result.step.step_no for result in view.results]))
        state = Progress()
        if view.snapshot is not None:
            for key, error in view.snapshot["ended"]:
                state.results[key] = None if error is None else StepError.from_json(error)
            state.known.update(state.results)
        for result in view.results:
            state = self.apply(state, result)
        return state

    def started(self, state: Progress, step: Step) -> Progress:
        state.known.add(step.key)
        return state

    def apply(self, state: Progress, result: StepResult) -> Progress:
        state.known.add(result.step.key)
        state.results[result.step.key] = result.step.error if result.failed else None
        return state

    def snapshot(self, state: Progress) -> Snapshot | None:
        ended = [[key, None if error is None else error.to_json()] for key, error in state.results.items()]
        return Snapshot({"ended": ended})

    def decide(self, state: Progress) -> Decision:
        failed = next((error for error in state.results.values() if error is not None), None)
        if failed is not None:
            return Fail(failed)
        if len(state.results) == len(self.steps):
            return Finish({"keys": sorted(state.results)})
        running = len(state.known) - len(state.results)
        new = [step for step in self.steps if step.key not in state.known][: self.width - running]
        return StartSteps(tuple(new)) if new else Wait()

    async def perform(self, state: Progress, step: Step, ctx: StepContext) -> Outcome:
        del state
        self.performed.append((step.key, step.attempt, str(step.effect_key)))
        if self._perform is None:
            return Done({"key": step.key}, Records(logs=(NewLog("info", f"did {step.key}"),)))
        return await self._perform(step, ctx)


def steps(count: int, **options: object) -> list[NewStep]:
    """Steps s1 ... sN."""
    return [NewStep(key=f"s{n}", kind="test", name=f"Step {n}", **options) for n in range(1, count + 1)]


async def forever(step: Step, ctx: StepContext) -> Outcome:
    """A step that only ends when it is interrupted."""
    del step, ctx
    await asyncio.Event().wait()
    raise AssertionError
