"""The effects of an agent: ask a model, call a tool, ask a person; and what each leaves behind.

Text goes to messages, files to artifacts, plans to plans; a step's output holds what the next decision needs and the
numbers that people look for. Errors of a model are left to the runner, which knows whether to try again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from shared.engines.agent import prompts
from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.plan import Plan, PlanInvalid, read_plan
from shared.engines.agent.requests import problem_with_call
from shared.engines.agent.state import AgentState
from shared.engines.agent.tidying import tidy
from shared.engines.agent.verdict import Judged, Verdict, judge, question_of
from shared.errors import AppError, UpstreamTimeout
from shared.llm import prices
from shared.llm.model import Message, Model, ModelRequest, ModelResponse, Text, ToolCall, Usage
from shared.llm.model import ToolResult as ResultBlock
from shared.runs.engine import Done, Failed, HumanRequest, Outcome, StepContext, Waiting
from shared.runs.models import Artifact, Json, JsonObject, NewLog, NewMessage, Records, Step, StepError
from shared.tools.router import ToolRouter
from shared.tools.tool import ToolContext, ToolFailed, ToolResult

CLARIFICATIONS = ("It took effect", "It did not take effect", "I do not know")

_CHARACTERS_A_TOKEN = 4  # of plain English; an estimate for answers that are cut off
_USER_MESSAGE_TOOL = "message"  # its words are stored as a message to the user and nowhere else
_REPAIRABLE_CHARACTERS = 20_000  # of a broken plan that the planner is shown again


async def plan(
    state: AgentState,
    step: Step,
    model: Model,
    request: ModelRequest,
    tools: ToolRouter,
    limits: AgentLimits,
    ctx: StepContext,
) -> Done:
    """Have a plan written. An unusable one is a result too: its problems are what the planner is told next."""
    began = time.monotonic()
    response = await _answer(model, request, step, ctx, shown=False)
    spent = prices.cost(model.name, response.usage)
    facts = _facts(response, spent, began)
    messages = (_message(Message.user(state.asked)),) if state.plan_calls == 0 else ()
    if response.stop_reason == "refusal":
        line = NewLog("warning", "The model declined to plan", facts)
        return Done({**_output(response), "declined": True}, Records((line,), messages), spent)
    try:
        written = read_plan(response.json, tools=tools.names, limits=limits)
    except PlanInvalid as invalid:
        cut = response.stop_reason == "max_tokens"
        found: list[Json] = [prompts.plan_cut(limits.output_tokens)] if cut else [*invalid.problems]
        line = NewLog("warning", f"The plan cannot be used: {' '.join(str(one) for one in found)}", facts)
        text = response.text.strip()[:_REPAIRABLE_CHARACTERS]
        if text:
            messages = (*messages, _message(Message("assistant", (Text(text),))))
        return Done({**_output(response), "problems": found}, Records((line,), messages), spent)
    records = Records((_planned_line(written, facts),), messages, plans=(written.record(state.plan_reason),))
    return Done({**_output(response), "phases": len(written.phases)}, records, spent)


async def take_turn(
    state: AgentState,
    step: Step,
    model: Model,
    request: ModelRequest,
    tools: ToolRouter,
    limits: AgentLimits,
    ctx: StepContext,
) -> Done:
    """Ask for the supervisor's next answer and draw the verdict on it."""
    began = time.monotonic()
    number = state.turns + 1
    response = await _answer(model, request, step, ctx, shown=True)
    message = response.message
    verdict = judge(
        message,
        stop_reason=response.stop_reason,
        check=lambda call: problem_with_call(call, state, tools),
        limits=limits,
    )
    spent = prices.cost(model.name, response.usage)
    lines = _turn_lines(verdict, {**_facts(response, spent, began), "phase": step.phase, "turn": number})
    records = Records(tuple(lines), (_message(message),) if message.blocks else ())
    return Done({**_output(response), **verdict.to_json()}, records, spent)


async def call_tool(state: AgentState, step: Step, tools: ToolRouter, ctx: StepContext) -> Outcome:
    """Perform one tool call of the current turn."""
    call = _judged(state, step).call
    known = _files_wanted(call.arguments or {}, state.artifacts)
    began = time.monotonic()
    files: Mapping[str, Artifact] = await ctx.artifacts(known) if known else {}
    context = ToolContext(
        run_id=ctx.run.id,
        step_no=step.step_no,
        effect_key=step.effect_key,
        account_id=ctx.run.account_id,
        files={name: artifact.content for name, artifact in files.items()},
    )
    try:
        result = await tools.call(call.name, call.raw_arguments if call.arguments is None else call.arguments, context)
    except ToolFailed as failure:
        return Failed(StepError(failure.code, failure.message, failure.retryable))
    to_user = call.name == _USER_MESSAGE_TOOL and not result.is_error
    answer = _message(Message.tool(ResultBlock(call.id, result.content, result.is_error)))
    said = (_to_user(str(result.output.get("text", ""))),) if to_user else ()
    names: list[Json] = [artifact.name for artifact in result.artifacts]
    kept: JsonObject = {key: value for key, value in result.output.items() if not (to_user and key == "text")}
    return Done(
        {"is_error": result.is_error, "artifacts": names, "result": kept},
        Records((_tool_line(call, result, step, began),), (*said, answer), result.artifacts),
        result.credits,
    )


def ask(state: AgentState, step: Step, limits: AgentLimits) -> Waiting:
    """Put the model's question to the user."""
    asked = question_of(_judged(state, step), limits)
    line = NewLog("user_input_required", asked.question, {"phase": step.phase, "options": [*asked.options]})
    request = HumanRequest(asked.question, "question", tuple(asked.options))
    return Waiting(request, Records((line,), (_to_user(asked.question),)))


def clarify(state: AgentState, step: Step) -> Waiting:
    """Ask a person what became of a call with effects that was cut off by a crash."""
    name = _judged(state, step).call.name
    question = prompts.outcome_unknown(name)
    line = NewLog("user_input_required", question, {"phase": step.phase, "tool": name, "options": [*CLARIFICATIONS]})
    return Waiting(HumanRequest(question, "approval", CLARIFICATIONS), Records((line,), (_to_user(question),)))


def _judged(state: AgentState, step: Step) -> Judged:
    if state.turn is None:
        raise AssertionError(f"step {step.key!r} belongs to a turn that is over")
    return state.turn.calls[cast("int", step.input["call"])]


def _files_wanted(arguments: Mapping[str, object], known: list[str]) -> tuple[str, ...]:
    """The stored files to load for a call: none unless it names one, because loading costs a query.

    A call that names files in `files` gets all, so that the tool can say which there are when one is missing.
    """
    if arguments.get("files"):
        return tuple(known)
    return tuple(name for name in known if name in arguments.values())


async def _answer(model: Model, request: ModelRequest, step: Step, ctx: StepContext, *, shown: bool) -> ModelResponse:
    """Ask the model, keeping count of what an answer that is cut off has cost: providers charge for that too."""
    keyed = replace(request, idempotency_key=str(step.effect_key))
    input_tokens = request.input_characters // _CHARACTERS_A_TOKEN
    characters = 0

    def count(new: int) -> None:
        nonlocal characters
        characters += new
        usage = Usage(input_tokens, characters // _CHARACTERS_A_TOKEN, estimated=True)
        ctx.spent(prices.cost(model.name, usage))

    async def show(text: str) -> None:
        count(len(text))
        await ctx.delta(text)

    count(0)
    try:
        response = await model.respond(keyed, on_text=show if shown else None)
    except UpstreamTimeout:
        raise  # it may have worked on the answer all the while
    except AppError:
        if characters == 0:
            ctx.spent(0)  # refused or too busy: nothing was begun
        raise
    return tidy(response, number=step.step_no)


def _facts(response: ModelResponse, spent: int, began: float) -> JsonObject:
    return {"model": response.model, "seconds": round(time.monotonic() - began, 3), "credits": spent}


def _output(response: ModelResponse) -> JsonObject:
    usage = cast("JsonObject", response.usage.to_json())
    return {"model": response.model, "stop_reason": response.stop_reason, "usage": usage}


def _planned_line(written: Plan, facts: JsonObject) -> NewLog:
    titles = "; ".join(phase.title for phase in written.phases)
    count = "1 phase" if len(written.phases) == 1 else f"{len(written.phases)} phases"
    phases: list[Json] = [phase.id for phase in written.phases]
    return NewLog("info", f"Planned {count}: {titles}", {**facts, "goal": written.goal, "phases": phases})


def _turn_lines(verdict: Verdict, facts: JsonObject) -> list[NewLog]:
    names = ", ".join(one.call.name for one in verdict.calls if one.use != "refused")
    said = {
        "calls": f"The model calls {names}" if names else "Nothing in the model's answer could be used",
        "text": "The model answered in words, without a call",
        "silent": "The model's answer was empty",
        "cut": "The model's answer was cut off at its token limit",
        "declined": "The model declined to go on",
    }[verdict.kind]
    lines = [NewLog("info" if names else "warning", said, facts)]
    lines += [
        NewLog("warning", f"Refused a call of {one.call.name}: {one.problem}", {"tool": one.call.name})
        for one in verdict.calls
        if one.use == "refused" and verdict.kind == "calls"
    ]
    return lines


def _tool_line(call: ToolCall, result: ToolResult, step: Step, began: float) -> NewLog:
    failed = f"{call.name} reported an error" if result.message is None else f"{call.name}: {result.message}"
    worked = f"{call.name} is done" if result.message is None else result.message
    return NewLog(
        "tool_error" if result.is_error else "tool_success",
        failed if result.is_error else worked,
        {
            "tool": call.name,
            "phase": step.phase,
            "seconds": round(time.monotonic() - began, 3),
            "credits": result.credits,
            "artifacts": [artifact.name for artifact in result.artifacts],
        },
    )


def _to_user(text: str) -> NewMessage:
    """Words for the user; the mark tells them from what the model says to itself between calls."""
    return NewMessage("assistant", [{"type": "text", "text": text, "audience": "user"}])


def _message(message: Message) -> NewMessage:
    return NewMessage(message.role, cast("list[Json]", [block.to_json() for block in message.blocks]))
