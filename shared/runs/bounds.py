"""How much a step may leave behind, and what cannot be recorded at all.

An outcome is cleaned and redacted here, once, before anybody sees it, so that the engine decides on what the rows will
say. What is over a limit fails its step with the size and the limit, and never reaches the database.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, cast

import orjson

from shared.redaction import Redactor
from shared.runs.engine import Done, Event, Failed, HumanRequest, Outcome, Waiting
from shared.runs.models import (
    Json,
    JsonObject,
    NewArtifact,
    NewMessage,
    NewPlan,
    NewStep,
    Records,
    Step,
    StepError,
    record,
)
from shared.runs.redacted import redacted_awaited, redacted_error, redacted_records
from shared.runs.text import bounded_metadata, bounded_text, json_bytes, storable, written

RESULT_BYTES: Final = 2 * 1024 * 1024  # all that one attempt leaves: output, messages, plans, files, log lines
ARTIFACT_BYTES: Final = 64 * 1024  # one file, UTF-8; the table holds no larger one
INPUT_BYTES: Final = 256 * 1024  # a step's input holds references; text belongs to messages and artifacts
LONGEST_WAIT_SECONDS: Final = 1e9  # a lifetime of a run; longer ones overflow a timestamp some day
ERROR_MESSAGE_BYTES: Final = 8 * 1024
ERROR_DETAILS_BYTES: Final = 16 * 1024
TOO_LARGE: Final = "result_too_large"
UNSTORABLE: Final = "unstorable"
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_BY_SHAPE: Final = Redactor()


class TooLarge(ValueError):  # noqa: N818 - the name says what is wrong
    """It can be stored, but there is too much of it; the message names the size and the limit."""


@record
class Recorded:
    """An outcome as it will be read again from its rows, and about how many bytes of JSON it is."""

    outcome: Outcome
    size: int = 0


def recordable(outcome: Outcome, step: Step, redactor: Redactor = _BY_SHAPE) -> Recorded:
    """The outcome as it will be read again, or the step's failure when it cannot be recorded.

    Credits stay: the attempt cost what it cost. `redactor` knows the run's secrets.
    """
    try:
        return _recorded(outcome, redactor)
    except ValueError as problem:
        code = TOO_LARGE if isinstance(problem, TooLarge) else UNSTORABLE
        error = StepError(code, f"The result of {step.name} cannot be recorded: {problem}")
        if isinstance(outcome, Failed):  # the failure itself is known; what came with it is not kept
            known = redacted_error(_bounded(outcome.error), redactor)
            error = replace(known, details={"unrecorded": error.message})
        return Recorded(Failed(error, credits=outcome.credits))


def _recorded(outcome: Outcome, redactor: Redactor) -> Recorded:
    size = 0
    records = outcome.records
    if records.messages or records.artifacts or records.plans:
        records = _clean_records(records)
    records = redacted_records(records, redactor)
    match outcome:
        case Done(output, _, credits_):
            clean, raw = _object(output)
            shown = redactor.json(clean, raw)
            size = len(raw) if shown is clean else len(orjson.dumps(shown))
            outcome = Done(shown, records, credits_)
        case Failed(error, _, credits_, retry_after):
            error = redacted_error(_bounded(error), redactor)
            outcome = Failed(error, records, credits_, None if retry_after is None else _seconds(retry_after))
        case Waiting(on, _, credits_):
            on = redacted_awaited(_awaited(on), redactor)
            size = _lengths((on.prompt, *on.options)) if isinstance(on, HumanRequest) else 0
            outcome = Waiting(on, records, credits_)
    size += _size_of(records)
    _check("all of it", size, RESULT_BYTES)
    return Recorded(outcome, size)


def refusal_of_output(output: JsonObject) -> StepError | None:
    """Why a run may not end with this output."""
    return _refusal("The run's output", output, RESULT_BYTES)


def refusal_of_input(name: str, value: JsonObject) -> StepError | None:
    """Why a step of this name may not be started with this input."""
    return _refusal(f"The input of {name}", value, INPUT_BYTES)


def refusal_of_start(
    wanted: Sequence[NewStep], *, new: int, step_count: int, max_steps: int, longest_seconds: float
) -> StepError | None:
    """Why these steps, of which the first `new` are new, may not be started in a run that has had `step_count`."""
    for step in wanted:
        if step.timeout_seconds > longest_seconds:
            limit = f"no host here runs longer than {longest_seconds:g}"
            return StepError("step_too_long", f"{step.name} may take {step.timeout_seconds:g} seconds; {limit}")
    if step_count + new > max_steps:
        return StepError("max_steps", f"The run reached its limit of {max_steps} steps")
    for step in wanted[:new]:
        refusal = refusal_of_input(step.name, step.input) if step.input else None
        if refusal is not None:
            return refusal
    return None


def _refusal(what: str, value: JsonObject, limit: int) -> StepError | None:
    try:
        _check(what, json_bytes(value), limit)
    except TooLarge as problem:
        return StepError(TOO_LARGE, str(problem))
    except ValueError as problem:
        return StepError(UNSTORABLE, f"{what} cannot be recorded: {problem}")
    return None


def _awaited(on: HumanRequest | Event | float) -> HumanRequest | Event | float:
    match on:
        case HumanRequest():
            return HumanRequest(storable(on.prompt), on.kind, tuple(storable(option) for option in on.options))
        case Event():
            if not _HASH.fullmatch(on.token_hash):
                raise ValueError("the hash of the awaited event's token is no SHA-256 in hex")
            return Event(on.token_hash, None if on.timeout_seconds is None else _seconds(on.timeout_seconds))
        case _:
            return _seconds(on)


def _clean_records(records: Records) -> Records:
    return Records(
        logs=records.logs,  # bounded where they are written; no engine reads them
        messages=tuple(NewMessage(one.role, _list(one.content)) for one in records.messages),
        artifacts=tuple(
            NewArtifact(storable(one.name), storable(one.content), one.content_type) for one in records.artifacts
        ),
        plans=tuple(NewPlan(storable(one.goal), _list(one.phases), storable(one.reason)) for one in records.plans),
    )


def _object(value: object) -> tuple[JsonObject, bytes]:
    if not isinstance(value, dict):  # an engine's own tool may return what it likes
        raise ValueError(f"the output is {type(value).__name__}, no object")  # noqa: TRY004 - what `recordable` takes
    return written(cast("JsonObject", value))


def _list(value: list[Json]) -> list[Json]:
    return storable(value)


def _seconds(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} seconds come to no end")
    return min(max(0.0, value), LONGEST_WAIT_SECONDS)


def _bounded(error: StepError) -> StepError:
    details: JsonObject | None
    try:
        details = None if error.details is None else bounded_metadata(error.details, ERROR_DETAILS_BYTES)
    except ValueError as problem:
        details = {"unrecorded": str(problem)}
    return StepError(error.code, bounded_text(error.message, ERROR_MESSAGE_BYTES), error.retryable, details)


def _size_of(records: Records) -> int:
    """About how many bytes the records are; a single file may be too large by itself."""
    size = 0
    for artifact in records.artifacts:
        length = len(artifact.content.encode())
        _check(f"the file {artifact.name[:200]}", length, ARTIFACT_BYTES)
        size += length
    for message in records.messages:
        size += len(orjson.dumps(message.content))
    for plan in records.plans:
        size += len(orjson.dumps(plan.phases)) + _lengths((plan.goal, plan.reason or ""))
    for line in records.logs:  # each is cut to its own bound later; a flood of them is not
        size += 200 + min(len(line.message), ERROR_MESSAGE_BYTES)
    return size


def _lengths(texts: Sequence[str]) -> int:
    return sum([len(text.encode()) for text in texts])


def _check(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"{what} has {size} bytes, and {limit} is the most")
