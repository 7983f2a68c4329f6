"""What to make of one answer of the supervisor's model, whatever it wrote.

The verdict is recorded with the step and never drawn again, so that a run keeps its past when this code changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from shared.llm.model import Block, Message, ModelResponse, Text, ToolCall
from shared.runs.models import JsonObject

Use: TypeAlias = Literal["tool", "ask", "finish", "replan", "refused"]
Kind: TypeAlias = Literal["calls", "text", "silent", "cut", "declined"]
Check: TypeAlias = Callable[[ToolCall], str | None]
"""What is wrong with a call of a tool, in words for the model; None if it can be performed."""

_KEPT_CALLS = 32  # more calls in one answer are a runaway and are dropped
_KEPT_CHARACTERS = 500_000  # of one answer; the longest answers of today's models are shorter
_DEEPEST = 32  # nesting of arguments; half of what the store takes, for they are stored inside a message


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


def tidy(response: ModelResponse, *, turn: int) -> Message:
    """The answer as it is recorded: calls have unique ids, and nothing is too deep, too many or too long to store.

    Some models number every call 1 or give no id at all, and results could not be told apart.
    """
    blocks: list[Block] = []
    seen: set[str] = set()
    left = _KEPT_CHARACTERS
    for block in response.blocks:
        match block:
            case ToolCall():
                if len(seen) == _KEPT_CALLS:
                    continue
                fresh = block.id if block.id and block.id not in seen else f"call_{turn}_{len(seen)}"
                seen.add(fresh)
                kept = replace(_bounded_call(block, left), id=fresh)
                left -= len(kept.raw_arguments)
                blocks.append(kept)
            case Text():
                text = block.text[:left]
                left -= len(text)
                if text.strip():  # providers refuse to be sent blank texts back
                    blocks.append(Text(text))
            case _:
                blocks.append(block)
    # Thoughts without words or deeds are no turn that a provider takes back.
    spoke = any(isinstance(block, Text | ToolCall) for block in blocks)
    return Message("assistant", tuple(blocks) if spoke else ())


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


def _bounded_call(call: ToolCall, left: int) -> ToolCall:
    name = call.name[:200]
    if len(call.raw_arguments) > left or _depth(call.arguments) > _DEEPEST:
        return replace(call, name=name, arguments=None, raw_arguments=call.raw_arguments[: min(left, 1_000)])
    return replace(call, name=name)


def _depth(value: object) -> int:
    """Levels of nesting, counted without recursion because the value is a stranger's."""
    level, here = 0, [value]
    while here:
        level += 1
        inner: list[object] = []
        for item in here:
            if isinstance(item, dict):
                inner += cast("dict[str, object]", item).values()
            elif isinstance(item, list):
                inner += cast("list[object]", item)
        here = inner
    return level
