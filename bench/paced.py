"""An engine whose runs say what their steps do: take their time, wait for a person, or wait for a timer.

A run's input: {"steps", "seconds"?, "waits"?: "human" | "timer"}. A step's result says when it began, by the wall clock
that the database on the same machine has too.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import cast

from shared.runs.engine import Decision, Done, Finish, HumanRequest, Outcome, StartSteps, StepContext, Wait, Waiting
from shared.runs.models import NewLog, NewStep, Records, RunView, Step, StepResult

STEP_SECONDS = 1200.0  # time limit
TIMER_SECONDS = 1800.0
UNEVEN = 0.4  # a step takes its seconds more or less so much of them, so that nothing is in step with a poll


@dataclass(slots=True)
class Paced:
    """What a run is to do, and how far it is."""

    steps: int
    seconds: float
    waits: str | None
    known: int = 0
    ended: int = 0


class PacedEngine:
    """Performs steps one after another."""

    name = "bench"

    def open(self, view: RunView) -> Paced:
        given = view.run.input
        steps, seconds = cast("int", given["steps"]), cast("float", given.get("seconds", 0.0))
        state = Paced(steps, seconds, cast("str | None", given.get("waits")))
        for result in view.results:
            self.apply(state, result)
        return state

    def started(self, state: Paced, step: Step) -> Paced:
        state.known = max(state.known, step.step_no)
        return state

    def apply(self, state: Paced, result: StepResult) -> Paced:
        state.ended += 1
        state.known = max(state.known, result.step.step_no)
        return state

    def decide(self, state: Paced) -> Decision:
        if state.ended == state.steps:
            return Finish({})
        if state.known > state.ended:
            return Wait()
        key = f"s{state.known + 1}"
        return StartSteps((NewStep(key, "noop", key, effect="pure", timeout_seconds=STEP_SECONDS),))

    async def perform(self, state: Paced, step: Step, ctx: StepContext) -> Outcome:
        del ctx
        began = time.time()
        if state.waits == "human":
            return Waiting(HumanRequest("Which tea?"))
        if state.waits == "timer":
            return Waiting(TIMER_SECONDS)
        if state.seconds > 0:
            await asyncio.sleep(state.seconds * random.uniform(1 - UNEVEN, 1 + UNEVEN))
        return Done({"began": began}, Records(logs=(NewLog("info", step.key),)))
