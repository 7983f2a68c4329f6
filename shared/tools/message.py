"""The tool `message`: say something to the person whose run it is. The engine stores the text with the step."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.runs.models import Effect
from shared.tools.tool import ToolContext, ToolInput, ToolResult


class MessageInput(ToolInput):
    """A message to the user."""

    text: str = Field(min_length=1, max_length=16_000, description="What to tell the user.")
    format: Literal["text", "markdown"] = Field(default="markdown", description="How the text is written.")


class MessageTool:
    """Pure: the words reach the user by being stored with the step, so they do so once."""

    name = "message"
    description = "Show a message to the user. Does not wait for an answer."
    input_model = MessageInput
    effect: Effect = "pure"
    timeout_seconds = 5.0
    credits_bound = 0

    async def call(self, arguments: MessageInput, ctx: ToolContext) -> ToolResult:
        del ctx  # a message needs nothing of its run
        return ToolResult(
            "The user has been shown the message.",
            {"text": arguments.text, "format": arguments.format},
            message=arguments.text,
        )
