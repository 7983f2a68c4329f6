"""From a model's tool call to a tool and back, with every bound enforced in one place.

What the model got wrong comes back as a result that tells it so; what the tool could not do is raised as `ToolFailed`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared.crash_points import crash_point
from shared.llm.model import ToolSpec, parse_object
from shared.runs.models import JsonObject, NewArtifact
from shared.tools.names import problem_with_name
from shared.tools.text import clean, clean_json, head, size_of
from shared.tools.tool import ARTIFACT_BYTES, Tool, ToolContext, ToolFailed, ToolInput, ToolResult, ToolRetry

CONTENT_BYTES = 16 * 1024
OUTPUT_BYTES = 256 * 1024
MESSAGE_BYTES = 8 * 1024  # of a log line

AnyTool = Tool[Any]  # tools of unlike inputs in one list; each gets the input its own model validated
RawArguments = Mapping[str, object] | str | None
"""Arguments as a provider hands them over: an object, the text of one, or None for what could not be read."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_REPORTED_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class Validated:
    """A call that may be made."""

    tool: AnyTool
    arguments: ToolInput


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a call cannot be made, in words that the model can act on."""

    text: str


class ToolRouter:
    """The tools of a run. Immutable, so one router serves any number of runs at a time."""

    def __init__(self, tools: Iterable[AnyTool]) -> None:
        self._tools: dict[str, AnyTool] = {}
        for tool in tools:
            if not _NAME.fullmatch(tool.name):
                raise ValueError(f"the tool name {tool.name!r} is not of the form {_NAME.pattern}")
            if tool.name in self._tools:
                raise ValueError(f"two tools are named {tool.name!r}")
            self._tools[tool.name] = tool

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tools, in the order in which they were given."""
        return tuple(self._tools)

    def get(self, name: str) -> AnyTool | None:
        """Return the tool `name`, or None."""
        return self._tools.get(name)

    def specs(self, names: Iterable[str] | None = None) -> list[ToolSpec]:
        """Describe the tools to a model: all, or those in `names`.

        Raises:
            KeyError: there is no such tool.
        """
        return [_spec(self._tools[name]) for name in (self.names if names is None else names)]

    def validate(self, name: str, raw: RawArguments) -> Validated | Problem:
        """Check a call without making it. Pure."""
        tool = self._tools.get(name)
        if tool is None:
            return Problem(f"There is no tool {_shown(name)}. The tools are: {', '.join(self.names)}.")
        arguments = _read(raw)
        if arguments is None:
            return Problem(f"The arguments of {name} are not a JSON object. {_fields(tool)}")
        try:
            return Validated(tool, tool.input_model.model_validate(arguments))
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            listed = "; ".join(_describe(problem) for problem in problems[:_REPORTED_PROBLEMS])
            return Problem(f"The arguments of {name} are wrong: {listed}. {_fields(tool)}")

    async def call(self, name: str, raw: RawArguments, ctx: ToolContext) -> ToolResult:
        """Make one call and return its result within the bounds; cancelling it cancels the tool.

        An unknown tool, wrong arguments and a tool's `ToolRetry` are results with `is_error`.

        Raises:
            ToolFailed: the tool could not do its work, or not within its time (code `tool_timeout`).
        """
        checked = self.validate(name, raw)
        if isinstance(checked, Problem):
            return _refusal(checked.text)
        tool = checked.tool
        deadline = asyncio.timeout(tool.timeout_seconds)
        crash_point("before_tool_call")
        try:
            async with deadline:
                result = await tool.call(checked.arguments, ctx)
        except ToolRetry as retry:
            return _refusal(str(retry))
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise ToolFailed(
                f"The tool {name} did not answer within {tool.timeout_seconds:g} s.",
                code="tool_timeout",
                retryable=tool.effect != "effectful",
            ) from error
        crash_point("after_tool_call")
        return _bounded(result)


def _read(raw: RawArguments) -> Mapping[str, object] | None:
    return parse_object(raw or "{}") if isinstance(raw, str) else raw


def _describe(problem: ErrorDetails) -> str:
    where = _shown(".".join(str(part) for part in problem["loc"])) if problem["loc"] else "the arguments"
    if problem["type"] == "extra_forbidden":
        return f"{where} is not a known field"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"


def _fields(tool: AnyTool) -> str:
    fields = tool.input_model.model_fields
    described = (f"{name} (required)" if field.is_required() else name for name, field in fields.items())
    return f"Its fields are: {', '.join(described)}."


def _shown(name: str) -> str:
    return f"`{head(clean(name), max_bytes=100)}`"


def _spec(tool: AnyTool) -> ToolSpec:
    schema = cast("dict[str, object]", _untitled(tool.input_model.model_json_schema()))
    schema.pop("description", None)  # the class's docstring, written for us and not for the model
    return ToolSpec(tool.name, tool.description, schema)


def _untitled(schema: object) -> object:
    """Drop the titles that pydantic makes up from field names: they cost tokens and say nothing."""
    if isinstance(schema, list):
        return [_untitled(item) for item in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    items = cast("dict[str, object]", schema).items()
    # A title is a string; a property that is called "title" has a schema.
    return {key: _untitled(value) for key, value in items if key != "title" or not isinstance(value, str)}


def _refusal(text: str) -> ToolResult:
    return _bounded(ToolResult(text, {"error": text}, is_error=True, message=text))


def _bounded(result: ToolResult) -> ToolResult:
    artifacts = tuple(_clean_artifact(artifact) for artifact in result.artifacts)
    for artifact in artifacts:
        if problem := _problem_with_artifact(artifact):
            return _too_much(result, f"The file {artifact.name!r} cannot be stored: {problem}. No file was stored.")
    output = cast("JsonObject", clean_json(result.output))
    if len(orjson.dumps(output)) > OUTPUT_BYTES:
        return _too_much(result, f"The call was made, but its output is over {OUTPUT_BYTES} bytes and was dropped.")
    return dataclasses.replace(
        result,
        content=head(clean(result.content), max_bytes=CONTENT_BYTES),
        output=output,
        artifacts=artifacts,
        message=None if result.message is None else head(clean(result.message), max_bytes=MESSAGE_BYTES),
    )


def _too_much(result: ToolResult, text: str) -> ToolResult:
    """Replace a result that cannot be stored; what the call cost stays."""
    return ToolResult(text, {"error": text}, is_error=True, credits=result.credits, message=text)


def _clean_artifact(artifact: NewArtifact) -> NewArtifact:
    return dataclasses.replace(artifact, content=clean(artifact.content))


def _problem_with_artifact(artifact: NewArtifact) -> str | None:
    if problem := problem_with_name(artifact.name):
        return f"its name {problem}"
    size = size_of(artifact.content)
    return f"it has {size} bytes, and {ARTIFACT_BYTES} is the most" if size > ARTIFACT_BYTES else None
