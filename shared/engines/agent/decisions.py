"""What comes next, from the state alone: a plan, an answer of the model, the calls of that answer, or the end.

A step's key says what it is for and which of its kind it is, so the same decision over the same results draws the same
key.
"""

from __future__ import annotations

from shared.engines.agent import requests
from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.requests import FixedSizes
from shared.engines.agent.state import AgentState
from shared.engines.agent.turn import Turn
from shared.llm import prices
from shared.runs.engine import Decision, Fail, Finish, StartSteps, Wait
from shared.runs.models import Json, JsonObject, NewLog, NewStep, StepError
from shared.runs.status import RunStatus
from shared.tools.router import ToolRouter

# The step outlives the call in it by this much, so that the readable timeout of the call comes first.
_GRACE_SECONDS = 10.0
_SHOWN_CHARACTERS = 1_000  # of a summary in a log line


def next_decision(  # noqa: PLR0911 one return for each thing that can come next
    state: AgentState, *, model: str, tools: ToolRouter, limits: AgentLimits, sizes: FixedSizes
) -> Decision:
    """Decide. `model` is the name by which the bound of a model call is priced, `sizes` are those of its requests."""
    if state.failure is not None:
        return _fail(state, state.failure)
    if not state.prompt:
        return _fail(state, StepError("invalid_input", "The run's input has no 'prompt'."))
    if state.turn is not None:
        steps = _call_steps(state, state.turn, tools)
        return StartSteps(steps, logs=tuple(state.lines)) if steps else Wait()
    if state.open:
        return Wait()
    if state.plan is None:
        bound = prices.upper_bound(model, requests.plan_characters(state, sizes), limits.output_tokens)
        return StartSteps((_plan_step(state, limits, bound),), RunStatus.PLANNING, tuple(state.lines))
    phase = state.phase
    if phase is None:
        return _finish(state)
    if state.phase_turns >= limits.turns_per_phase:
        return _fail(
            state,
            StepError("turns_spent", f"The phase {phase.title!r} was not finished in {state.phase_turns} answers."),
        )
    bound = prices.upper_bound(model, requests.turn_characters(state, tools, sizes), limits.output_tokens)
    return StartSteps((_turn_step(state, limits, bound),), logs=tuple(state.lines))


def _plan_step(state: AgentState, limits: AgentLimits, bound: int) -> NewStep:
    number = state.plan_calls + 1
    return NewStep(
        key=f"plan.{number}",
        kind="model",
        name="Plan" if number == 1 else "Plan again",
        input={"task": "plan", "number": number},
        timeout_seconds=limits.model_seconds + _GRACE_SECONDS,
        credits_bound=bound,
    )


def _turn_step(state: AgentState, limits: AgentLimits, bound: int) -> NewStep:
    number = state.turns + 1
    phase = state.phase
    return NewStep(
        key=f"turn.{number}",
        kind="model",
        name="Work" if phase is None else phase.title,
        input={"task": "turn", "number": number},
        timeout_seconds=limits.model_seconds + _GRACE_SECONDS,
        credits_bound=bound,
        phase=None if phase is None else phase.id,
    )


def _call_steps(state: AgentState, turn: Turn, tools: ToolRouter) -> tuple[NewStep, ...]:
    """The steps of a turn that are not open yet: all at its begin, later those that ask about an unknown outcome."""
    phase = None if state.phase is None else state.phase.id
    steps = (_call_step(turn, place, phase, tools) for place in turn.missing())
    return tuple(step for step in steps if step.key not in state.open)


def _call_step(turn: Turn, place: int, phase: str | None, tools: ToolRouter) -> NewStep:
    judged = turn.calls[place]
    name = judged.call.name
    task = "ask" if judged.use == "ask" else "clarify" if place in turn.unknown else "call"
    key = f"{task}.{turn.number}.{place}"
    target: JsonObject = {"task": task, "turn": turn.number, "call": place, "tool": name}
    if task != "call":
        title = "Ask the user" if task == "ask" else f"Ask what became of {name}"
        return NewStep(key, kind="human", name=title, input=target, effect="pure", phase=phase)
    tool = tools.get(name)
    if tool is None:  # gone since the verdict: the step will say so
        return NewStep(key, kind="tool", name=name, input=target, effect="pure", phase=phase)
    return NewStep(
        key,
        kind="tool",
        name=name,
        input=target,
        effect=tool.effect,
        timeout_seconds=tool.timeout_seconds + _GRACE_SECONDS,
        credits_bound=tool.credits_bound,
        phase=phase,
    )


def _finish(state: AgentState) -> Finish:
    title, summary = state.finished[-1]
    artifacts: list[Json] = [*state.artifacts]
    output: JsonObject = {"summary": summary, "artifacts": artifacts, "phases": len(state.finished)}
    done = NewLog("success", f"Done: {summary[:_SHOWN_CHARACTERS]}", {"phase": title, "artifacts": artifacts})
    return Finish(output, (*state.lines, done))


def _fail(state: AgentState, error: StepError) -> Fail:
    return Fail(error, (*state.lines, NewLog("error", error.message, {"code": error.code})))
