"""The calls with which a model steers its run. They are no tools: the engine itself answers them.

Of the three only ask_user becomes a step, because a person's answer must be recorded.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from shared.engines.agent.limits import AgentLimits
from shared.llm.model import JsonObject, ToolCall, ToolSpec

FINISH_PHASE = "finish_phase"
ASK_USER = "ask_user"
REPLAN = "replan"
CONTROLS = frozenset({FINISH_PHASE, ASK_USER, REPLAN})

_OPTIONS = 10

_Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class FinishPhase(_Arguments):
    summary: _Words
    success: bool = True


class AskUser(_Arguments):
    question: _Words
    options: list[_Words] = Field(default_factory=list[str], max_length=_OPTIONS)


class Replan(_Arguments):
    reason: _Words


Control = FinishPhase | AskUser | Replan
_Model = TypeVar("_Model", bound=_Arguments)


class ControlInvalid(ValueError):  # noqa: N818 says what the arguments are
    """The arguments of a control call are wrong; the text tells the model which."""


def control_specs() -> tuple[ToolSpec, ...]:
    text: JsonObject = {"type": "string"}
    return (
        ToolSpec(
            FINISH_PHASE,
            "End the current phase: success true when its criteria are met, false when they cannot be.",
            _object({"summary": text, "success": {"type": "boolean"}}, required=["summary", "success"]),
        ),
        ToolSpec(
            ASK_USER,
            "Ask the user one question and wait for the answer. With options, the user picks one of them.",
            _object({"question": text, "options": {"type": "array", "items": text}}, required=["question"]),
        ),
        ToolSpec(
            REPLAN,
            "Drop the rest of the plan and have a new one written. Give the reason.",
            _object({"reason": text}, required=["reason"]),
        ),
    )


def read_control(call: ToolCall, limits: AgentLimits) -> Control:
    """Read the arguments of a control call; texts over the limit are cut.

    Raises:
        ControlInvalid: they are no object or do not fit.
    """
    longest = limits.text_characters
    match call.name:
        case "finish_phase":
            finish = _read(FinishPhase, call)
            return finish.model_copy(update={"summary": finish.summary[:longest]})
        case "ask_user":
            ask = _read(AskUser, call)
            return ask.model_copy(update={"question": ask.question[:longest]})
        case _:
            replan = _read(Replan, call)
            return replan.model_copy(update={"reason": replan.reason[:longest]})


def _read(model: type[_Model], call: ToolCall) -> _Model:
    if call.arguments is None:
        raise ControlInvalid(f"The arguments of {call.name!r} are not a JSON object.")
    try:
        return model.model_validate(call.arguments)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise ControlInvalid(f"The arguments of {call.name!r} are wrong: {problems}.") from None


def _object(properties: JsonObject, *, required: list[str]) -> JsonObject:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
