"""What the tests of the agent say in the model's place, and the tools they give it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import Field

from shared.engines.agent.engine import AgentEngine
from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.models import OneModel
from shared.llm.model import (
    Block,
    ModelRequest,
    ModelResponse,
    OnText,
    StopReason,
    Text,
    ToolCall,
    Usage,
)
from shared.runs.models import Effect, NewArtifact
from shared.tools.message import MessageTool
from shared.tools.router import ToolRouter
from shared.tools.tool import ToolContext, ToolFailed, ToolInput, ToolResult
from tests.engines.drive import Drive

PROMPT = "Say hello to everybody."
USAGE = Usage(input_tokens=10, output_tokens=5)


@dataclass
class Script:
    """A model that gives these answers in order; the last one again and again if `for_ever`."""

    answers: Sequence[ModelResponse | Exception]
    for_ever: bool = False
    requests: list[ModelRequest] = field(default_factory=list)
    name: str = "scripted:test"

    async def respond(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelResponse:
        self.requests.append(request)
        place = len(self.requests) - 1
        answer = self.answers[min(place, len(self.answers) - 1) if self.for_ever else place]
        if isinstance(answer, Exception):
            raise answer
        if on_text is not None and answer.text:
            await on_text(answer.text)
        return answer

    async def aclose(self) -> None:
        """Nothing is open."""


def says(*blocks: Block, stop: StopReason = "end") -> ModelResponse:
    return ModelResponse(blocks, stop, USAGE, "scripted:test")


def words(text: str, *, stop: StopReason = "end") -> ModelResponse:
    return says(Text(text), stop=stop)


def silence() -> ModelResponse:
    return says()


def calls(*wanted: tuple[str, Any], text: str = "", stop: StopReason = "tool_calls") -> ModelResponse:
    """Tool calls (name, arguments); a string as arguments is what the model literally wrote."""
    blocks: list[Block] = [Text(text)] if text else []
    for place, (name, arguments) in enumerate(wanted):
        raw = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        blocks.append(ToolCall.parse(f"id_{place}", name, raw))
    return says(*blocks, stop=stop)


def finish(summary: str = "All is done.", *, success: bool = True) -> ModelResponse:
    return calls(("finish_phase", {"summary": summary, "success": success}))


def phase(id_: str, *, tools: Sequence[str] = ("echo",), after: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "id": id_,
        "title": f"Title of {id_}",
        "objective": f"Objective of {id_}.",
        "tools": list(tools),
        "success_criteria": [f"{id_} is done"],
        "depends_on": list(after),
    }


def plan(*phases: dict[str, Any], goal: str = "Everybody is greeted.") -> ModelResponse:
    return words(orjson.dumps({"goal": goal, "phases": phases or [phase("greet")]}).decode())


class EchoInput(ToolInput):
    text: str = Field(min_length=1)


class EchoTool:
    """Says what it was told and keeps it as a file."""

    name = "echo"
    description = "Say a text."
    input_model = EchoInput
    effect: Effect = "pure"
    timeout_seconds = 5.0
    credits_bound = 7

    async def call(self, arguments: EchoInput, ctx: ToolContext) -> ToolResult:
        name = f"{arguments.text[:20]}.txt"
        return ToolResult(
            f"echo: {arguments.text}", {"length": len(arguments.text)}, (NewArtifact(name, arguments.text),), credits=3
        )


class SendTool:
    """Sends something that cannot be taken back."""

    name = "send"
    description = "Send a text."
    input_model = EchoInput
    effect: Effect = "effectful"
    timeout_seconds = 5.0
    credits_bound = 0

    async def call(self, arguments: EchoInput, ctx: ToolContext) -> ToolResult:
        return ToolResult("sent")


class BrokenTool:
    """Never works."""

    name = "broken"
    description = "Never works."
    input_model = EchoInput
    effect: Effect = "idempotent"
    timeout_seconds = 5.0
    credits_bound = 0

    async def call(self, arguments: EchoInput, ctx: ToolContext) -> ToolResult:
        raise ToolFailed("The service behind it is gone.", code="gone", retryable=False)


class FilesInput(ToolInput):
    files: tuple[str, ...] = ()


class FilesTool:
    """Says which files it was given."""

    name = "files"
    description = "List files."
    input_model = FilesInput
    effect: Effect = "pure"
    timeout_seconds = 5.0
    credits_bound = 0

    async def call(self, arguments: FilesInput, ctx: ToolContext) -> ToolResult:
        listed = ", ".join(f"{name}={content}" for name, content in sorted(ctx.files.items()))
        return ToolResult(listed or "none", is_error=not listed)


def router() -> ToolRouter:
    return ToolRouter([EchoTool(), SendTool(), BrokenTool(), FilesTool(), MessageTool()])


def driven(
    *answers: ModelResponse | Exception, limits: AgentLimits | None = None, for_ever: bool = False, **drive: Any
) -> tuple[Drive, Script]:
    """A run whose model gives these answers."""
    model = Script(answers, for_ever=for_ever)
    engine = AgentEngine(OneModel(model), router(), limits)
    return Drive(engine, {"prompt": PROMPT}, **drive), model
