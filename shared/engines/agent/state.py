"""Where an agent's run stands, built from its recorded steps alone.

`fold` takes in one ended step at a time. The results of calls that ran in parallel are joined in the order of the
calls, so the order in which they ended leaves no trace once all of them have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import orjson

from shared.engines.agent import prompts
from shared.engines.agent.conversation import Conversation, Origin
from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.plan import Phase, Plan
from shared.engines.agent.turn import Turn
from shared.engines.agent.verdict import Judged, Verdict, finish_of, replan_of
from shared.llm.model import Message, Text, ToolResult
from shared.runs.models import Json, JsonObject, NewLog, NewMessage, StepError, StepResult

_SHOWN_CHARACTERS = 300  # of a summary or a reason in a log line


@dataclass(slots=True)
class AgentState:
    """What the next decision needs. Equal for equal rows, whatever machine folded them.

    `prompt` is the task as models are told it, `asked` as the run's person put it. `model` is the name by which its
    model calls are priced. `instructions` and `tools` are its agent's, if it is of one; None stands for all tools.
    `plan` is None while a plan is wanted; `planning` is the planner's conversation, `conversation` the
    supervisor's. `finished` holds title and summary of each finished phase, `steps` the numbers of all ended steps.
    `lines` go out with the next decision; they are there only while no step is open, so no line goes out twice.
    """

    prompt: str
    asked: str
    model: str = ""
    instructions: str = ""
    tools: tuple[str, ...] | None = None
    planning: Conversation = field(default_factory=Conversation)
    conversation: Conversation = field(default_factory=Conversation)
    plan: Plan | None = None
    plan_reason: str | None = None
    phase_at: int = 0
    finished: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    turn: Turn | None = None
    steps: set[int] = field(default_factory=set[int])
    open: set[str] = field(default_factory=set[str])
    lines: list[NewLog] = field(default_factory=list[NewLog])
    artifacts: list[str] = field(default_factory=list[str])
    failure: StepError | None = None
    plan_calls: int = 0
    turns: int = 0
    phase_turns: int = 0
    repairs: int = 0
    replans: int = 0
    silent: int = 0
    wordy: int = 0
    mistakes: int = 0

    @property
    def phase(self) -> Phase | None:
        """The phase being worked on; None while a plan is wanted and when all phases are finished."""
        return None if self.plan is None or self.phase_at == len(self.plan.phases) else self.plan.phases[self.phase_at]


def fresh(prompt: str, *, asked: str | None = None) -> AgentState:
    """The state of a run without steps."""
    state = AgentState(prompt, prompt if asked is None else asked)
    state.planning.say(Message.user(prompts.plan_wanted(prompt)))
    return state


def fold(state: AgentState, result: StepResult, limits: AgentLimits) -> AgentState:
    """Take in one ended step, in place."""
    state.open.discard(result.step.key)
    state.steps.add(result.step.step_no)
    state.lines = []
    task = result.step.input.get("task")
    if task == "plan":
        state.plan_calls += 1
        _planned(state, result, limits)
    elif task == "turn":
        _turn_ended(state, result, limits)
    elif state.turn is not None:
        _call_ended(state.turn, result, limits)
        _close_when_complete(state, limits)
    return state


def fold_remnant(state: AgentState, step_no: int, remnant: JsonObject, limits: AgentLimits) -> AgentState:
    """Take in what is left of an ended step whose bulk was left out of the conversation, in place."""
    state.steps.add(step_no)
    state.lines = []
    if "blocks" in remnant:
        message = Message.from_json({"role": "assistant", "blocks": remnant["blocks"]})
        verdict = Verdict("calls", tuple(Judged(call, "tool") for call in message.tool_calls))
        state.turns += 1
        state.phase_turns += 1
        _answered(state, step_no, message, verdict, limits)
    elif state.turn is not None:
        turn, place = state.turn, cast("int", remnant["call"])
        answer = ToolResult(turn.calls[place].call.id, prompts.LEFT_OUT, bool(remnant["is_error"]))
        turn.end(place, step_no, answer, _names(remnant["artifacts"]))
        _close_when_complete(state, limits)
    return state


def _planned(state: AgentState, result: StepResult, limits: AgentLimits) -> None:
    if result.failed:
        state.failure = _error_of(result)
    elif result.output.get("declined"):
        state.failure = StepError("model_refused", "The model refuses to plan this task.")
    elif result.plans:
        _adopt(state, Plan.recorded(result.plans[0]))
    else:
        problems = [str(problem) for problem in cast("list[Json]", result.output["problems"])]
        if state.repairs == limits.plan_repairs:
            state.failure = StepError(
                "plan_invalid",
                f"The model wrote no usable plan in {state.repairs + 1} tries. Of the last one: {' '.join(problems)}",
            )
            return
        state.repairs += 1
        state.planning.say(_spoken(result))
        state.planning.say(Message.user(prompts.plan_repair(problems)))


def _adopt(state: AgentState, plan: Plan) -> None:
    row = plan.record(None)
    words = orjson.dumps({"goal": row.goal, "phases": row.phases}).decode()
    state.planning.say(Message("assistant", (Text(words),)))
    state.plan, state.phase_at, state.repairs = plan, 0, 0
    state.plan_reason = None
    if state.turns == 0:
        state.conversation.say(Message.user(prompts.request(state.prompt)))
    _enter_phase(state)


def _turn_ended(state: AgentState, result: StepResult, limits: AgentLimits) -> None:
    state.turns += 1
    state.phase_turns += 1
    if result.failed:
        state.failure = _error_of(result)
        return
    message = _spoken(result)
    _answered(state, result.step.step_no, message, Verdict.recorded(result.output, message), limits)


def _answered(state: AgentState, step_no: int, message: Message, verdict: Verdict, limits: AgentLimits) -> None:
    # Of an answer that only calls tools, nothing but the calls is ever looked at again.
    plain = verdict.kind == "calls" and all(one.use == "tool" for one in verdict.calls)
    state.conversation.say(message, (Origin(step_no),) if plain else ())
    state.silent = state.silent + 1 if verdict.kind == "silent" else 0
    match verdict.kind:
        case "declined":
            state.failure = StepError("model_refused", "The model refuses to go on with this task.")
        case "silent" if state.silent > limits.silent_answers:
            state.failure = StepError("model_silent", f"The model gave {state.silent} empty answers in a row.")
        case "silent":
            state.conversation.say(Message.user(prompts.NUDGE_SILENT))
        case "text" if state.wordy > 0:
            _finish_phase(state, message.text[: limits.text_characters])
        case "text":
            state.wordy += 1
            state.conversation.say(Message.user(prompts.NUDGE_TEXT))
        case "cut" | "calls":
            state.mistakes = state.mistakes + 1 if verdict.mistaken else 0
            state.wordy = state.wordy if verdict.mistaken else 0
            state.turn = Turn(state.turns, verdict.calls)
            _close_when_complete(state, limits)
            if state.mistakes > limits.mistakes:
                problem = next((one.problem for one in verdict.calls if one.problem), "")
                state.failure = StepError(
                    "model_confused",
                    f"Nothing could be used in {state.mistakes} answers of the model in a row. {problem}".strip(),
                )


def _call_ended(turn: Turn, result: StepResult, limits: AgentLimits) -> None:
    place = cast("int", result.step.input["call"])
    task = result.step.input["task"]
    call = turn.calls[place].call
    if result.failed:
        error = _error_of(result)
        if task == "call" and error.code == "outcome_unknown" and result.step.effect == "effectful":
            turn.unknown.add(place)
            return
        turn.broken[place] = error
        turn.answers[place] = ToolResult(call.id, error.message, is_error=True)
    elif task == "call":
        recorded = next(message for message in result.messages if message.role == "tool")
        block = cast("ToolResult", _message(recorded).blocks[0])
        shown = prompts.untrusted(
            block.content, boundary=result.step.effect_key.hex[:12], longest=limits.result_characters
        )
        answer = ToolResult(call.id, shown, block.is_error)
        turn.end(place, result.step.step_no, answer, _names(result.output["artifacts"]))
    else:
        words = _words_of(result.output.get("response"))[: limits.result_characters]
        told = prompts.user_answered(words) if task == "ask" else prompts.person_clarified(words)
        turn.answers[place] = ToolResult(call.id, told)


def _close_when_complete(state: AgentState, limits: AgentLimits) -> None:
    """Join a turn's results in the order of its calls, and do what the turn asked for."""
    turn = state.turn
    if turn is None or turn.missing():
        return
    state.turn = None
    state.artifacts += [name for name in turn.written() if name not in state.artifacts]
    state.lines += [_broken_line(turn, place) for place in sorted(turn.broken)]
    finish = None if (call := turn.honoured("finish")) is None else finish_of(call, limits)
    replan = None if (call := turn.honoured("replan")) is None else replan_of(call, limits)
    if not turn.calls:
        state.conversation.say(Message.user(prompts.answer_cut(limits.output_tokens)))
    else:
        ended = prompts.PHASE_ENDED if finish is not None and finish.success else prompts.NEW_PLAN_FOLLOWS
        results = turn.results(ended=ended if finish or replan else None)
        state.conversation.say(Message.tool(*results), turn.origins())
    if finish is not None and finish.success:
        _finish_phase(state, finish.summary)
    elif finish is not None:
        _replan(state, f"The phase failed: {finish.summary}", limits)
    elif replan is not None:
        _replan(state, replan.reason, limits)
    state.conversation.fit(limits.conversation_characters)


def _finish_phase(state: AgentState, summary: str) -> None:
    phase = state.phase
    if phase is None:
        raise AssertionError("a phase can only be finished while there is one")
    state.finished.append((phase.title, summary))
    state.phase_at += 1
    following = state.phase
    shown = _shown(summary)
    state.lines.append(
        NewLog(
            "phase_advance",
            f"Finished {phase.title}: {shown}",
            {"phase": phase.id, "next": None if following is None else following.id, "turns": state.phase_turns},
        )
    )
    if following is not None:
        _enter_phase(state)


def _enter_phase(state: AgentState) -> None:
    phase, plan = state.phase, state.plan
    if phase is None or plan is None:
        raise AssertionError("a phase can only be entered while there is one")
    state.phase_turns = state.silent = state.wordy = state.mistakes = 0
    state.conversation.say(Message.user(prompts.phase_begins(phase, state.phase_at + 1, len(plan.phases))))


def _replan(state: AgentState, reason: str, limits: AgentLimits) -> None:
    if state.replans == limits.replans:
        state.failure = StepError("replans_spent", f"{reason} There were {state.replans} new plans already.")
        return
    state.replans += 1
    state.plan = None
    state.plan_reason = reason
    state.planning.say(Message.user(prompts.new_plan_wanted(reason, state.finished)))
    state.lines.append(NewLog("warning", f"A new plan is needed: {_shown(reason)}", {"replan": state.replans}))


def _broken_line(turn: Turn, place: int) -> NewLog:
    error = turn.broken[place]
    name = turn.calls[place].call.name
    return NewLog("tool_error", f"{name} failed: {error.message}", {"tool": name, "code": error.code})


def _spoken(result: StepResult) -> Message:
    """What the model said in this step; an empty answer leaves no row."""
    recorded = next((message for message in result.messages if message.role == "assistant"), None)
    return Message("assistant", ()) if recorded is None else _message(recorded)


def _message(recorded: NewMessage) -> Message:
    return Message.from_json({"role": recorded.role, "blocks": recorded.content})


def _names(value: Json) -> list[str]:
    return [str(name) for name in cast("list[Json]", value)]


def _error_of(result: StepResult) -> StepError:
    step = result.step
    return step.error or StepError(f"step_{step.status}", f"The step {step.name!r} was {step.status}.")


def _words_of(response: Json) -> str:
    return response if isinstance(response, str) else orjson.dumps(response).decode()


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
