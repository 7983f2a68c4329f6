"""The agent: a planner writes phases, a supervisor works through them with tools, each call of either is a step.

The pure part stands in `state` (what is recorded), `decisions` (what comes next) and `requests` (what a model is sent);
here it is joined with the only part that has effects.
"""

from __future__ import annotations

from functools import cached_property

from shared.engines.agent import requests, snapshots
from shared.engines.agent.decisions import next_decision
from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.models import Models
from shared.engines.agent.performing import ask, call_tool, clarify, plan, take_turn
from shared.engines.agent.requests import FixedSizes
from shared.engines.agent.state import AgentState, fold, fresh
from shared.runs.engine import Decision, Outcome, Snapshot, StepContext
from shared.runs.models import RunView, Step, StepResult
from shared.tools.router import ToolRouter


class AgentEngine:
    """Implements `Engine[AgentState]`, and `Snapshotting`. Keeps nothing of a run, so one serves any number at once.

    A run's input is {"prompt": str}; its output {"summary", "artifacts": [name], "phases": count}.
    """

    name = "agent"
    snapshot_version = snapshots.SNAPSHOT_VERSION

    def __init__(self, models: Models, tools: ToolRouter, limits: AgentLimits | None = None) -> None:
        self._models = models
        self._tools = tools
        self._limits = limits or AgentLimits()

    def open(self, view: RunView) -> AgentState:
        prompt = view.run.input.get("prompt")
        state = fresh(prompt.strip() if isinstance(prompt, str) else "")
        if view.snapshot is not None:
            state = snapshots.restore(state, view.snapshot, view.kept, self._limits)
        state.model = self._models.name_for(view.run)
        for result in view.results:
            state = self.apply(state, result)
        return state

    def apply(self, state: AgentState, result: StepResult) -> AgentState:
        return fold(state, result, self._limits)

    def snapshot(self, state: AgentState) -> Snapshot:
        return snapshots.take(state)

    def started(self, state: AgentState, step: Step) -> AgentState:
        state.open.add(step.key)
        return state

    def decide(self, state: AgentState) -> Decision:
        return next_decision(state, model=state.model, tools=self._tools, limits=self._limits, sizes=self._sizes)

    @cached_property
    def _sizes(self) -> FixedSizes:
        return FixedSizes.of(self._tools, self._limits)

    async def perform(self, state: AgentState, step: Step, ctx: StepContext) -> Outcome:
        match step.input["task"]:
            case "plan":
                request = requests.plan_request(state, self._tools, self._limits)
                async with self._models.opened(ctx) as model:
                    return await plan(state, step, model, request, self._tools, self._limits, ctx)
            case "turn":
                request = requests.turn_request(state, self._tools, self._limits)
                async with self._models.opened(ctx) as model:
                    return await take_turn(state, step, model, request, self._tools, self._limits, ctx)
            case "call":
                return await call_tool(state, step, self._tools, ctx)
            case "ask":
                return ask(state, step, self._limits)
            case _:
                return clarify(state, step)
