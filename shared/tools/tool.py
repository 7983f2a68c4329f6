"""What a tool is: a name and a schema for the model, a cost and an effect for the engine, one call.

A tool never writes to the database. Whatever it produced is in its result, which the engine stores with the step in
one transaction: a call that is performed again after a crash leaves nothing behind from the first time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from shared.runs.models import Effect, Json, JsonObject, NewArtifact

ARTIFACT_BYTES = 64 * 1024  # of UTF-8; what the table of artifacts takes inline


class ToolInput(BaseModel):
    """Arguments as a model writes them: an unknown name is an error that the model is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)


InputT = TypeVar("InputT", bound=ToolInput)


@dataclass(frozen=True, slots=True)
class ToolContext:
    """The step on whose behalf a tool is called.

    `effect_key` goes with every outward request, so that a repeated attempt has its effect once. `files` holds the
    run's artifacts so far by name, the newest of each.
    """

    run_id: UUID
    step_no: int
    effect_key: UUID
    account_id: UUID
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call produced.

    Attributes:
        content: for the model.
        output: stored with the step, for people and programs.
        artifacts: files to store; the same name again is a new version.
        is_error: the model is told that the call failed, and why stands in `content`.
        credits: what the call cost, in micro-credits; at most the tool's `credits_bound`.
        message: the log line of the call, if it deserves one of its own.
    """

    content: str
    output: JsonObject = field(default_factory=dict[str, Json])
    artifacts: tuple[NewArtifact, ...] = ()
    is_error: bool = False
    credits: int = 0
    message: str | None = None


class ToolRetry(Exception):  # noqa: N818 a request to the model, not an error of the run
    """The model asked for something impossible and may ask again; the text tells it what is wrong."""


class ToolFailed(Exception):  # noqa: N818 reads as what happened
    """The tool could not do its work, whatever the arguments: the step fails and its retry policy decides."""

    def __init__(self, message: str, *, code: str, retryable: bool) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable


class Tool(Protocol[InputT]):
    """One tool. It keeps no state between calls that a call's result depends on.

    `effect` says what a second performance after a crash means; `timeout_seconds` bounds one call, `credits_bound` its
    cost in micro-credits.
    """

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def input_model(self) -> type[InputT]: ...
    @property
    def effect(self) -> Effect: ...
    @property
    def timeout_seconds(self) -> float: ...
    @property
    def credits_bound(self) -> int: ...

    async def call(self, arguments: InputT, ctx: ToolContext) -> ToolResult:
        """Do the work.

        Raises:
            ToolRetry: the model should be told and may try again.
            ToolFailed: the work cannot be done now, whatever the arguments.
        """
        ...
