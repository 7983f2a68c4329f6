"""What to make of one answer of the supervisor's model, whatever it wrote.

The verdict is recorded with the step and never drawn again, so that a run keeps its past when this code changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from shared.engines.agent import prompts
from shared.engines.agent.control import (
    ASK_USER,
    CONTROLS,
    FINISH_PHASE,
    AskUser,
    ControlInvalid,
    FinishPhase,
    Replan,
    read_control,
)
from shared.engines.agent.limits import AgentLimits
from shared.llm.model import Message, ToolCall
from shared.runs.models import JsonObject

Use: TypeAlias = Literal["tool", "ask", "finish", "replan", "refused"]
Kind: TypeAlias = Literal["calls", "text", "silent", "cut", "declined"]
Check: TypeAlias = Callable[[ToolCall], str | None]
"""What is wrong with a call of a tool, in words for the model; None if it can be performed."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One call and what becomes of it; `problem` is what the model is told of a refused one."""

    call: ToolCall
    use: Use
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`calls`: tools or control calls, `text`: words only, `silent`: nothing, `cut`: the token limit ended it,
    `declined`: the model refuses the task.
    """

    kind: Kind
    calls: tuple[Judged, ...] = ()

    @property
    def mistaken(self) -> bool:
        """True if nothing of the answer can be used."""
        return all(judged.use == "refused" for judged in self.calls)

    def to_json(self) -> JsonObject:
        return {
            "verdict": self.kind,
            "calls": [{"name": one.call.name, "use": one.use, "problem": one.problem} for one in self.calls],
        }

    @classmethod
    def recorded(cls, output: JsonObject, message: Message) -> Verdict:
        """Read a verdict back; `message` is the answer it was drawn on."""
        calls = cast("list[JsonObject]", output["calls"])
        return cls(
            cast("Kind", output["verdict"]),
            tuple(
                Judged(call, cast("Use", judged["use"]), cast("str | None", judged["problem"]))
                for call, judged in zip(message.tool_calls, calls, strict=True)
            ),
        )


def judge(message: Message, *, stop_reason: str, check: Check, limits: AgentLimits) -> Verdict:
    """Draw the verdict on a tidy answer. `check` is asked about calls that are no control calls."""
    if stop_reason == "refusal":
        return Verdict("declined", tuple(Judged(call, "refused", "The model declined.") for call in message.tool_calls))
    if stop_reason == "max_tokens":
        # The last call may have lost its end and still parse, so none is performed.
        cut = prompts.answer_cut(limits.output_tokens)
        return Verdict("cut", tuple(Judged(call, "refused", cut) for call in message.tool_calls))
    if not message.tool_calls:
        return Verdict("text" if message.text.strip() else "silent")
    judged: list[Judged] = []
    for call in message.tool_calls:
        used = [one.use for one in judged]
        if len(judged) >= limits.calls_per_turn:
            judged.append(Judged(call, "refused", f"At most {limits.calls_per_turn} calls are performed at a time."))
        elif call.name in CONTROLS:
            judged.append(_judge_control(call, used, limits))
        else:
            problem = check(call)
            judged.append(Judged(call, "tool" if problem is None else "refused", problem))
    return Verdict("calls", tuple(judged))


def _judge_control(call: ToolCall, used: Sequence[str], limits: AgentLimits) -> Judged:
    try:
        read_control(call, limits)
    except ControlInvalid as error:
        return Judged(call, "refused", str(error))
    if call.name == ASK_USER:
        if "ask" in used:
            return Judged(call, "refused", "Ask one question at a time.")
        return Judged(call, "ask")
    if "finish" in used or "replan" in used:
        return Judged(call, "refused", "The phase was ended already by another call of the same answer.")
    return Judged(call, "finish" if call.name == FINISH_PHASE else "replan")


def finish_of(judged: Judged, limits: AgentLimits) -> FinishPhase:
    return cast("FinishPhase", read_control(judged.call, limits))


def question_of(judged: Judged, limits: AgentLimits) -> AskUser:
    return cast("AskUser", read_control(judged.call, limits))


def replan_of(judged: Judged, limits: AgentLimits) -> Replan:
    return cast("Replan", read_control(judged.call, limits))
