"""The tool `write_file`: keep a text as an artifact of the run, under a name that is safe everywhere."""

from __future__ import annotations

import mimetypes
from typing import Annotated

from pydantic import AfterValidator, Field

from shared.runs.models import Effect, NewArtifact
from shared.tools.names import ArtifactName
from shared.tools.text import clean, size_of
from shared.tools.tool import ARTIFACT_BYTES, ToolContext, ToolInput, ToolResult


def content_type_of(name: str) -> str:
    """Guess the media type of a text file from its name; `text/plain` when the name says nothing."""
    guessed, encoding = mimetypes.guess_type(name, strict=False)
    return guessed if guessed is not None and encoding is None else "text/plain"


def _within_bound(content: str) -> str:
    if (size := size_of(content)) > ARTIFACT_BYTES:
        raise ValueError(f"has {size} bytes, and a file may have {ARTIFACT_BYTES}; split it")
    return content


class WriteFileInput(ToolInput):
    """A text file."""

    name: ArtifactName = Field(description="Relative path such as 'report.md' or 'src/app.py'.")
    content: Annotated[str, AfterValidator(_within_bound)] = Field(description="The whole text, at most 64 KB.")
    content_type: str | None = Field(
        default=None,
        max_length=100,
        pattern=r"^[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*(; ?charset=utf-8)?$",
        description="Media type; by default it follows from the name.",
    )


class WriteFileTool:
    """Pure: the file is stored with the step."""

    name = "write_file"
    description = "Save a text file for the user. The same name again replaces the file."
    input_model = WriteFileInput
    effect: Effect = "pure"
    timeout_seconds = 5.0
    credits_bound = 0

    async def call(self, arguments: WriteFileInput, ctx: ToolContext) -> ToolResult:
        content = clean(arguments.content)
        size = size_of(content)
        content_type = arguments.content_type or content_type_of(arguments.name)
        verb = "Replaced" if arguments.name in ctx.files else "Wrote"
        done = f"{verb} {arguments.name} ({size} bytes)"
        return ToolResult(
            f"{done}.",
            {"name": arguments.name, "content_type": content_type, "size_bytes": size},
            artifacts=(NewArtifact(name=arguments.name, content=content, content_type=content_type),),
            message=done,
        )
