"""The tool `code`: run a Python program in the sandbox and keep the files that it wrote."""

from __future__ import annotations

import asyncio
import math
import os
from typing import Annotated

from pydantic import AfterValidator, Field

from shared.logs import logger
from shared.runs.models import Effect, JsonObject, NewArtifact
from shared.tools.names import ArtifactName
from shared.tools.sandbox import Limits, Outcome, SandboxUnavailable, run_python
from shared.tools.text import clean, head, size_of, tail
from shared.tools.tool import ARTIFACT_BYTES, ToolContext, ToolFailed, ToolInput, ToolResult, ToolRetry
from shared.tools.write_file import content_type_of

MAX_CODE_BYTES = 100 * 1024
_STDOUT_SHOWN = 10 * 1024  # of the 16 KB that a result may have
_STDERR_SHOWN = 4 * 1024
_WAIT_SECONDS = 20.0  # for a turn when all sandboxes are busy, and for starting one

_log = logger(__name__)


def _within_bound(text: str) -> str:
    if (size := size_of(text)) > MAX_CODE_BYTES:
        raise ValueError(f"has {size} bytes, and {MAX_CODE_BYTES} is the most")
    return text


class CodeInput(ToolInput):
    """A program and what it may read."""

    code: Annotated[str, AfterValidator(_within_bound)] = Field(min_length=1, description="The Python program.")
    files: tuple[ArtifactName, ...] = Field(
        default=(),
        max_length=32,
        description="Names of files saved earlier in this run that the program may read in its working directory.",
    )
    stdin: Annotated[str, AfterValidator(_within_bound)] = Field(default="", description="The program's input.")


class CodeTool:
    """Pure in the sense of a step's effect: a program may read a clock or draw a number, so a second run may print
    something else, but nothing outside its step can tell that it ran at all.

    At most `parallel` programs run at a time; a call waits for its turn.
    """

    name = "code"
    description = (
        "Run a Python 3.12 program (standard library only, no network, no subprocesses, no threads) and return what "
        "it printed. Text files that it writes to its working directory are saved for the user. A file saved earlier "
        "can be run with runpy.run_path(name, run_name='__main__') when it is named in `files`."
    )
    input_model = CodeInput
    effect: Effect = "pure"

    def __init__(
        self, *, limits: Limits | None = None, parallel: int | None = None, credits_per_second: int = 1_000
    ) -> None:
        self._limits = limits or Limits(file_kept_bytes=ARTIFACT_BYTES)
        self._turns = asyncio.Semaphore(parallel or os.cpu_count() or 1)
        self._credits_per_second = credits_per_second
        self.timeout_seconds = self._limits.seconds + _WAIT_SECONDS
        self.credits_bound = math.ceil(self._limits.seconds) * credits_per_second

    async def call(self, arguments: CodeInput, ctx: ToolContext) -> ToolResult:
        files = _chosen(arguments.files, ctx)
        try:
            async with self._turns:
                outcome = await run_python(arguments.code, stdin=arguments.stdin, files=files, limits=self._limits)
        except SandboxUnavailable as error:
            _log.error("sandbox.unavailable run_id=%s reason=%s", ctx.run_id, error)
            raise ToolFailed(
                "The sandbox for programs is not available on this host.", code="sandbox_unavailable", retryable=True
            ) from error
        except ValueError as error:
            raise ToolRetry(str(error)) from error
        artifacts, not_kept = _artifacts(outcome)
        spent = min(max(1, math.ceil(outcome.seconds)) * self._credits_per_second, self.credits_bound)
        return ToolResult(
            _content(outcome, artifacts, not_kept),
            _output(outcome, artifacts, not_kept),
            artifacts=artifacts,
            is_error=outcome.exit != "ok",
            credits=spent,
            message=_headline(outcome),
        )


def _chosen(names: tuple[str, ...], ctx: ToolContext) -> dict[str, bytes]:
    missing = [name for name in names if name not in ctx.files]
    if missing:
        there_are = ", ".join(sorted(ctx.files)) or "none"
        raise ToolRetry(f"There is no file {missing[0]!r} in this run. The files are: {there_are}.")
    return {name: ctx.files[name].encode(errors="replace") for name in names}


def _artifacts(outcome: Outcome) -> tuple[tuple[NewArtifact, ...], tuple[str, ...]]:
    """Split what the program wrote into text, which is kept, and the rest, which is named with the reason."""
    artifacts: list[NewArtifact] = []
    not_kept = list(outcome.not_kept)
    for name, content in outcome.files.items():
        try:
            text = content.decode()
        except UnicodeDecodeError:
            not_kept.append(f"{name!r}: not UTF-8 text")
            continue
        if "\x00" in text:
            not_kept.append(f"{name!r}: not text, it holds NUL")
        elif len(content) > ARTIFACT_BYTES:
            not_kept.append(f"{name!r}: larger than {ARTIFACT_BYTES} bytes")
        else:
            artifacts.append(NewArtifact(name=name, content=text, content_type=content_type_of(name)))
    return tuple(artifacts), tuple(not_kept)


def _headline(outcome: Outcome) -> str:
    match outcome.exit:
        case "ok":
            ended = "Program finished"
        case "timeout":
            ended = "Program stopped: out of time"
        case "out_of_memory":
            ended = "Program stopped: out of memory"
        case "output_limit":
            ended = "Program stopped: it printed or wrote too much"
        case "error" if outcome.trap is not None:
            ended = f"Program crashed the interpreter ({outcome.trap.replace('_', ' ')})"
        case "error":
            ended = f"Program failed with exit code {outcome.exit_code}"
    return f"{ended} after {outcome.seconds:.1f} s"


def _content(outcome: Outcome, artifacts: tuple[NewArtifact, ...], not_kept: tuple[str, ...]) -> str:
    parts = [f"{_headline(outcome)}."]
    if outcome.stdout:
        parts.append(f"stdout:\n{head(clean(outcome.stdout), max_bytes=_STDOUT_SHOWN)}")
    if outcome.stderr:
        parts.append(f"stderr:\n{tail(clean(outcome.stderr), max_bytes=_STDERR_SHOWN)}")
    if not outcome.stdout and not outcome.stderr:
        parts.append("It printed nothing.")
    if outcome.truncated:
        parts.append("It printed more than is shown.")
    if artifacts:
        written = ", ".join(f"{artifact.name} ({size_of(artifact.content)} bytes)" for artifact in artifacts)
        parts.append(f"Files saved: {written}")
    if not_kept:
        parts.append(f"Files not saved: {'; '.join(not_kept)}")
    return "\n".join(parts)


def _output(outcome: Outcome, artifacts: tuple[NewArtifact, ...], not_kept: tuple[str, ...]) -> JsonObject:
    return {
        "exit": outcome.exit,
        "exit_code": outcome.exit_code,
        "trap": outcome.trap,
        "stdout": outcome.stdout,
        "stderr": outcome.stderr,
        "truncated": outcome.truncated,
        "seconds": round(outcome.seconds, 3),
        "memory_bytes": outcome.memory_bytes,
        "files": [artifact.name for artifact in artifacts],
        "files_not_saved": list(not_kept),
    }
