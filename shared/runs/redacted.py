"""What leaves a step or a decision, without secrets.

It happens once, before an engine sees an outcome and before anything is committed, so that what the engine decides on
is what the rows will say. What has nothing to hide stays the very same object.
"""

from __future__ import annotations

from dataclasses import replace
from operator import is_

from shared.redaction import Redactor
from shared.runs.engine import Decision, Event, Fail, Finish, HumanRequest, StartSteps, Wait
from shared.runs.models import NewArtifact, NewLog, NewMessage, NewPlan, NewStep, Records, StepError


def redacted_awaited(on: HumanRequest | Event | float, redactor: Redactor) -> HumanRequest | Event | float:
    """What a step waits for; of a question its texts are redacted."""
    if not isinstance(on, HumanRequest):
        return on
    return HumanRequest(redactor.text(on.prompt), on.kind, tuple(map(redactor.text, on.options)))


def redacted_decision(decision: Decision, redactor: Redactor) -> Decision:
    """The decision with the inputs, lines and outputs it holds, redacted."""
    match decision:
        case StartSteps(steps, status, logs):
            return StartSteps(tuple([_step(step, redactor) for step in steps]), status, _logs(logs, redactor))
        case Finish(output, logs):
            return Finish(redactor.json(output), _logs(logs, redactor))
        case Fail(error, logs):
            return Fail(redacted_error(error, redactor), _logs(logs, redactor))
        case Wait():
            return decision


def redacted_error(error: StepError, redactor: Redactor) -> StepError:
    """The error with its message and details redacted."""
    details = None if error.details is None else redactor.json(error.details)
    return StepError(error.code, redactor.text(error.message), error.retryable, details)


def redacted_records(records: Records, redactor: Redactor) -> Records:
    """What a step leaves behind besides its output, redacted. It must be storable already."""
    logs = _logs(records.logs, redactor)
    if not (records.messages or records.artifacts or records.plans):
        return records if logs is records.logs else Records(logs)
    text, json = redactor.text, redactor.json
    return Records(
        logs=logs,
        messages=tuple([NewMessage(one.role, json(one.content)) for one in records.messages]),
        artifacts=tuple(
            [NewArtifact(text(one.name), text(one.content), one.content_type) for one in records.artifacts]
        ),
        plans=tuple(
            [NewPlan(text(one.goal), json(one.phases), one.reason and text(one.reason)) for one in records.plans]
        ),
    )


def _logs(logs: tuple[NewLog, ...], redactor: Redactor) -> tuple[NewLog, ...]:
    if not logs:
        return logs
    shown = tuple([redacted_line(line, redactor) for line in logs])
    return logs if all(map(is_, logs, shown)) else shown


def redacted_line(line: NewLog, redactor: Redactor) -> NewLog:
    """The line with its message and metadata redacted."""
    message = redactor.text(line.message)
    metadata = redactor.json(line.metadata) if line.metadata else line.metadata
    return line if message is line.message and metadata is line.metadata else NewLog(line.log_type, message, metadata)


def _step(step: NewStep, redactor: Redactor) -> NewStep:
    name = redactor.text(step.name)
    given = redactor.json(step.input) if step.input else step.input
    return step if name is step.name and given is step.input else replace(step, name=name, input=given)
