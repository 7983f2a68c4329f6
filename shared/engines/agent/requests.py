"""What a model is sent, built from the state alone: the same before and after a crash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.engines.agent import prompts
from shared.engines.agent.control import control_specs
from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.plan import plan_schema
from shared.engines.agent.state import AgentState
from shared.llm.model import ModelRequest, ToolCall
from shared.tools.router import Problem, ToolRouter


@dataclass(frozen=True, slots=True)
class FixedSizes:
    """How large a request is without its messages: what `ModelRequest.input_characters` makes of the rest.

    Attributes:
        plan: A request for a plan.
        turn: A request for an answer, without the tools of the phase.
        tools: Each tool.
    """

    plan: int
    turn: int
    tools: Mapping[str, int]

    @classmethod
    def of(cls, tools: ToolRouter, limits: AgentLimits) -> FixedSizes:
        system = prompts.planner_system(tools.specs(), limits.phases)
        plan = ModelRequest(system, (), json_schema=plan_schema(tools.names))
        turn = ModelRequest(prompts.supervisor_system(), (), control_specs())
        each = {spec.name: ModelRequest("", (), (spec,)).input_characters for spec in tools.specs()}
        return cls(plan.input_characters, turn.input_characters, each)


def plan_characters(state: AgentState, sizes: FixedSizes) -> int:
    """The `input_characters` of `plan_request`, without building it."""
    return sizes.plan + _extra(state) + state.planning.characters


def turn_characters(state: AgentState, tools: ToolRouter, sizes: FixedSizes) -> int:
    """The `input_characters` of `turn_request`, without building it."""
    tools_of_phase = sum(sizes.tools[name] for name in phase_tools(state, tools))
    return sizes.turn + _extra(state) + state.conversation.characters + tools_of_phase


def _extra(state: AgentState) -> int:
    return len(prompts.with_instructions("", state.instructions))


def plan_request(state: AgentState, tools: ToolRouter, limits: AgentLimits) -> ModelRequest:
    """Ask the planner, who sees his earlier plans and what became of them."""
    return ModelRequest(
        system=prompts.with_instructions(prompts.planner_system(tools.specs(), limits.phases), state.instructions),
        messages=tuple(state.planning.messages),
        json_schema=plan_schema(tools.names),
        max_output_tokens=limits.output_tokens,
        timeout_seconds=limits.model_seconds,
    )


def turn_request(state: AgentState, tools: ToolRouter, limits: AgentLimits) -> ModelRequest:
    """Ask the supervisor for his next answer in the current phase."""
    return ModelRequest(
        system=prompts.with_instructions(prompts.supervisor_system(), state.instructions),
        messages=tuple(state.conversation.messages),
        tools=(*tools.specs(phase_tools(state, tools)), *control_specs()),
        max_output_tokens=limits.output_tokens,
        timeout_seconds=limits.model_seconds,
    )


def phase_tools(state: AgentState, tools: ToolRouter) -> tuple[str, ...]:
    """The tools that the current phase may use; one that this worker no longer has is left out."""
    return () if state.phase is None else tuple(name for name in state.phase.tools if tools.get(name) is not None)


def problem_with_call(call: ToolCall, state: AgentState, tools: ToolRouter) -> str | None:
    """Why a tool call of the current phase cannot be performed, in words for the model; None if it can."""
    offered = phase_tools(state, tools)
    if call.name not in offered:
        listed = ", ".join(offered) or "none"
        return f"There is no tool {call.name!r} in this phase. Its tools are: {listed}. Others need a replan."
    checked = tools.validate(call.name, call.raw_arguments if call.arguments is None else call.arguments)
    return checked.text if isinstance(checked, Problem) else None
