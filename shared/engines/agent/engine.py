"""The agent: a planner writes phases, a supervisor works through them with tools, each call of either is a step.

The pure part stands in `state` (what is recorded), `decisions` (what comes next) and `requests` (what a model is sent);
here it is joined with the only part that has effects.
"""

from __future__ import annotations

from functools import lru_cache

from pydantic import ValidationError

from shared.engines.agent import requests, snapshots
from shared.engines.agent.config import AgentConfig
from shared.engines.agent.decisions import next_decision
from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.models import Models
from shared.engines.agent.performing import ask, call_tool, clarify, plan, take_turn
from shared.engines.agent.requests import FixedSizes
from shared.engines.agent.state import AgentState, fold, fresh
from shared.runs.engine import Decision, Outcome, Snapshot, StepContext
from shared.runs.models import Run, RunView, Step, StepError, StepResult, record
from shared.tools.router import ToolRouter


@record
class Kit:
    """The tools of an agent, and how large requests with them are."""

    tools: ToolRouter
    sizes: FixedSizes


class AgentEngine:
    """Implements `Engine[AgentState]`, and `Snapshotting`. Keeps nothing of a run, so one serves any number at once.

    A run's input is {"prompt": str}, or what the form of its agent asks for (see `config`); its output is {"summary",
    "artifacts": [name], "phases": count}.
    """

    name = "agent"
    snapshot_version = snapshots.SNAPSHOT_VERSION

    def __init__(self, models: Models, tools: ToolRouter, limits: AgentLimits | None = None) -> None:
        self._models = models
        self._tools = tools
        self._limits = limits or AgentLimits()
        self._kit_of = lru_cache(maxsize=64)(self._made_kit)

    def open(self, view: RunView) -> AgentState:
        state = _fresh(view.run)
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
        kit = self._kit_of(state.tools)
        return next_decision(state, model=state.model, tools=kit.tools, limits=self._limits, sizes=kit.sizes)

    def _made_kit(self, names: tuple[str, ...] | None) -> Kit:
        """The tools of these names that this worker has; all of them for None."""
        found = (self._tools.get(name) for name in dict.fromkeys(names or ()))
        tools = self._tools if names is None else ToolRouter(tool for tool in found if tool is not None)
        return Kit(tools, FixedSizes.of(tools, self._limits))

    async def perform(self, state: AgentState, step: Step, ctx: StepContext) -> Outcome:
        tools = self._kit_of(state.tools).tools
        match step.input["task"]:
            case "plan":
                request = requests.plan_request(state, tools, self._limits)
                async with self._models.opened(ctx) as model:
                    return await plan(state, step, model, request, tools, self._limits, ctx)
            case "turn":
                request = requests.turn_request(state, tools, self._limits)
                async with self._models.opened(ctx) as model:
                    return await take_turn(state, step, model, request, tools, self._limits, ctx)
            case "call":
                return await call_tool(state, step, tools, ctx)
            case "ask":
                return ask(state, step, self._limits)
            case _:
                return clarify(state, step)


def _fresh(run: Run) -> AgentState:
    if run.agent is None:
        prompt = run.input.get("prompt")
        return fresh(prompt.strip() if isinstance(prompt, str) else "")
    try:
        config = AgentConfig.model_validate(run.agent.config)
    except ValidationError:
        state = fresh("")
        state.failure = StepError("agent_broken", "The agent's settings cannot be used; its admins can repair them.")
        return state
    state = fresh(config.task(run.input), asked=AgentConfig().task(run.input))
    state.instructions, state.tools = config.instructions, config.tools
    return state
