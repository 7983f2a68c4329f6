"""The engine of the soak: performs a `RunPlan`, and asks a person wherever nobody knows whether an effect happened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

import httpx

from bench.soak.plan import (
    GIVES_A_VALUE,
    NOBODY_ANSWERS,
    REFUSED,
    STEP_COST,
    TRY_COST,
    PlannedStep,
    RunPlan,
    value_of,
)
from shared.runs.engine import (
    Decision,
    Done,
    Fail,
    Failed,
    Finish,
    HumanRequest,
    Outcome,
    Snapshot,
    StartSteps,
    StepContext,
    Wait,
    Waiting,
)
from shared.runs.models import Json, NewArtifact, NewLog, Records, RunView, Step, StepError, StepResult
from shared.runs.performer import OUTCOME_UNKNOWN

DELTA_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Ended:
    """What is known of a step that ended."""

    step_no: int
    value: int
    error: StepError | None


@dataclass(slots=True)
class Progress:
    """What is known of a run."""

    plan: RunPlan
    known: set[str] = field(default_factory=set)
    ended: dict[str, Ended] = field(default_factory=dict)

    def add(self, results: Iterable[StepResult]) -> None:
        for result in results:
            step = result.step
            error = step.error if result.failed else None
            self.ended[step.key] = Ended(step.step_no, int(result.output.get("value", 0)), error)
        self.known |= self.ended.keys()


class SoakEngine:
    """Up to `width` steps at a time. An unknown outcome adds a question; any other failure fails the run."""

    name = "soak"
    snapshot_version = 1

    def __init__(self, outside: httpx.AsyncClient) -> None:
        self._outside = outside

    def open(self, view: RunView) -> Progress:
        state = Progress(RunPlan.from_json(view.run.input))
        if view.snapshot is not None:
            state.ended = {key: Ended(number, value, None) for key, number, value in view.snapshot["values"]}
        state.add([*view.kept.values(), *view.results])
        return state

    def snapshot(self, state: Progress) -> Snapshot:
        """Values are copied; failures are kept by reference."""
        values: list[Json] = [[key, one.step_no, one.value] for key, one in state.ended.items() if one.error is None]
        return Snapshot({"values": values}, tuple(one.step_no for one in state.ended.values() if one.error))

    def started(self, state: Progress, step: Step) -> Progress:
        state.known.add(step.key)
        return state

    def apply(self, state: Progress, result: StepResult) -> Progress:
        state.add([result])
        return state

    def decide(self, state: Progress) -> Decision:
        unknown: list[str] = []
        for key, one in state.ended.items():
            if one.error is not None:
                if one.error.code != OUTCOME_UNKNOWN:
                    return Fail(one.error)
                unknown.append(key)
        wanted = [*(PlannedStep(f"ask-{key}", "ask") for key in unknown), *state.plan.steps]
        if len(state.ended) == len(wanted):
            return Finish({"total": _total(state), "unknown": len(unknown)})
        free = state.plan.width - (len(state.known) - len(state.ended))
        new = [step.new() for step in wanted if step.key not in state.known][: max(0, free)]
        return StartSteps(tuple(new)) if new else Wait()

    async def perform(self, state: Progress, step: Step, ctx: StepContext) -> Outcome:
        plan = state.plan
        seconds = float(step.input["seconds"])
        match step.kind:
            case "nap":
                return Waiting(seconds)
            case "ask":
                return Waiting(HumanRequest(NOBODY_ANSWERS if plan.kind == "abandoned" else f"What of {step.key}?"))
            case "refuse":
                return Failed(StepError(REFUSED, "This step always fails"), credits=TRY_COST)
            case "look_up" | "send":
                return await self._call(plan, step)
            case "think":
                await _think(seconds, ctx)
                return _done(plan, step, (NewArtifact(f"{step.key}.txt", "thought " * 100),))
            case _:
                await asyncio.sleep(seconds)
                return _done(plan, step)

    async def _call(self, plan: RunPlan, step: Step) -> Outcome:
        query = {**step.input, "value": value_of(plan.seed, step.key)}
        try:
            response = await self._outside.post(f"/effects/{step.effect_key}", params=query)
        except httpx.ConnectError:
            return Failed(StepError("upstream_busy", "The service cannot be reached", retryable=True), credits=TRY_COST)
        except httpx.TransportError:  # sent, and no answer
            if step.effect == "effectful":
                return Failed(StepError(OUTCOME_UNKNOWN, "The service did not answer"), credits=TRY_COST)
            return Failed(StepError("upstream_timeout", "The service did not answer", retryable=True), credits=TRY_COST)
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            busy = StepError("upstream_busy", "The service refused for now", retryable=True)
            return Failed(busy, credits=TRY_COST, retry_after_seconds=0.3)
        response.raise_for_status()
        return _done(plan, step, value=response.json()["value"])


async def _think(seconds: float, ctx: StepContext) -> None:
    """Write model output until the time is over."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while (left := until - loop.time()) > 0:
        await ctx.delta("thinking ")
        await asyncio.sleep(min(DELTA_SECONDS, left))


def _done(plan: RunPlan, step: Step, artifacts: tuple[NewArtifact, ...] = (), *, value: int | None = None) -> Done:
    output = {"value": value_of(plan.seed, step.key) if value is None else value}
    return Done(
        output, Records(logs=(NewLog("info", step.key, {"result_of": step.key}),), artifacts=artifacts), STEP_COST
    )


def _total(state: Progress) -> int:
    return sum(
        state.ended[step.key].value
        for step in state.plan.steps
        if step.work in GIVES_A_VALUE and state.ended[step.key].error is None
    )
