"""Performs one step: the only place where an engine's effects happen, so its errors are settled here.

Whatever `perform` does, an outcome that can be recorded comes back, except when the step is cancelled on purpose. What
leaves a step goes through its run's redactor, which hears of every secret before the step does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from uuid import UUID

from shared.crash_points import crash_point
from shared.errors import (
    AppError,
    CredentialMissing,
    DatabaseUnavailable,
    NotFound,
    NoVault,
    RetryLater,
    UpstreamTimeout,
)
from shared.logs import logger
from shared.redaction import Redactor, StreamRedactor
from shared.runs.backoff import patiently
from shared.runs.bounds import Recorded, recordable
from shared.runs.engine import Done, Engine, Failed, OpenCredential, Outcome
from shared.runs.host import Host
from shared.runs.models import Artifact, NewLog, Run, Step, StepError, StepResult
from shared.runs.redacted import redacted_line
from shared.runs.results import Results
from shared.runs.transitions import Delta

log = logger(__name__)

OUTCOME_UNKNOWN: Final = "outcome_unknown"
LIVE_LINES: Final = 500  # what one attempt may write into the log while it goes on


class Meter:
    """What one attempt has cost so far, in micro-credits; at most the step's bound."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self.used = 0

    def read(self, used: int) -> None:
        self.used = min(used, self._bound)


class Context:
    """The `StepContext` that a runner gives to `perform`."""

    def __init__(
        self,
        run: Run,
        lease_id: UUID,
        step: Step,
        meter: Meter,
        *,
        host: Host,
        results: Results,
        redactor: Redactor,
        say: Callable[[NewLog], None],
    ) -> None:
        self.meter = meter
        self.redactor = redactor
        self._run = run
        self._step = step
        self._lease_id = lease_id
        self._host = host
        self._results = results
        self._say = say
        self._lines = 0
        self._shown: StreamRedactor | None = None
        self._offset = 0

    @property
    def run(self) -> Run:
        return self._run

    async def delta(self, text: str) -> None:
        if self._shown is None:
            self._shown = self.redactor.stream()
        self._show(self._shown.feed(text))

    def _show(self, text: str) -> None:
        if text:
            step = self._step
            self._host.emit(Delta(self._run.id, self._lease_id, step.step_no, step.attempt, self._offset, text))
            self._offset += len(text)

    def log(self, line: NewLog) -> None:
        self._lines += 1
        if self._lines <= LIVE_LINES:
            self._say(redacted_line(line, self.redactor))

    def close(self) -> None:
        """Show the end of the text, which may have been held back, and how much was left out of the log."""
        if self._shown is not None:
            self._show(self._shown.flush())
        if self._lines > LIVE_LINES:
            self._say(NewLog("warning", f"{self._lines - LIVE_LINES} more lines of {self._step.name} were left out"))

    @asynccontextmanager
    async def open_credential(self, provider: str) -> AsyncGenerator[OpenCredential]:
        vault = self._host.vault
        if vault is None:
            raise NoVault(f"This worker has no keys to open the credential for {provider!r} with")
        step = self._step

        async def opened() -> OpenCredential:
            return await stack.enter_async_context(
                vault.open(
                    run_id=self._run.id,
                    lease_id=self._lease_id,
                    step_no=step.step_no,
                    attempt=step.attempt,
                    provider=provider,
                )
            )

        async with AsyncExitStack() as stack:
            try:
                credential = await patiently(opened)
            except NotFound as error:
                raise CredentialMissing(error.message, details=error.details, hint=error.hint) from error
            self.redactor.know(*credential.secrets)
            yield credential

    def spent(self, micro_credits: int) -> None:
        self.meter.read(micro_credits)

    async def artifacts(self, names: tuple[str, ...]) -> Mapping[str, Artifact]:
        return await patiently(lambda: self._host.store.artifacts(self._run.id, names)) if names else {}

    async def results(self, step_nos: tuple[int, ...]) -> Mapping[int, StepResult]:
        return await patiently(lambda: self._results.load(step_nos))


async def perform(engine: Engine[Any], state: object, step: Step, context: Context) -> Recorded:
    """Perform `step` and turn every failure into an outcome.

    Raises:
        CancelledError: the step was cancelled, or had its time; it left no result.
    """
    crash_point("before_perform")
    try:
        try:
            outcome = await engine.perform(state, step, context)
        finally:
            context.close()
        crash_point("after_perform")
        return recordable(_within_bound(outcome, step), step, context.redactor)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return _failed(error, step, context)  # nobody cancelled the step: something within it cancelled itself
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the executor's one stage: a bug fails its step alone
        return _failed(error, step, context)


def _failed(error: BaseException, step: Step, context: Context) -> Recorded:
    used = context.meter.used
    match error:
        case TimeoutError() | UpstreamTimeout() | DatabaseUnavailable() if step.effect == "effectful":
            return Recorded(Failed(unknown_outcome(step), credits=used))
        case TimeoutError():
            return Recorded(late(step, used))
        case AppError():
            failure = StepError(error.code, error.message, retryable=error.retryable)
            pause = error.retry_after_seconds if isinstance(error, RetryLater) else None
            return recordable(Failed(failure, credits=used, retry_after_seconds=pause), step, context.redactor)
        case _:
            log.error(
                "step.crashed run_id=%s step_no=%d kind=%s", context.run.id, step.step_no, step.kind, exc_info=error
            )
            bug = f"{step.name} failed by an unexpected error; the operator's log has it"
            return Recorded(Failed(StepError("internal", bug), credits=used))


def late(step: Step, used: int) -> Outcome:
    """What becomes of a step that had its time and had cost `used` micro-credits by then."""
    if step.effect == "effectful":
        return Failed(unknown_outcome(step), credits=used)
    message = f"{step.name} took longer than {step.timeout_seconds:g} seconds"
    return Failed(StepError("step_timeout", message, retryable=True), credits=used)


def unknown_outcome(step: Step) -> StepError:
    """The failure of an effectful step whose end nobody saw."""
    return StepError(OUTCOME_UNKNOWN, f"Whether {step.name} took effect is not known, so it was not tried again")


def _within_bound(outcome: Outcome, step: Step) -> Outcome:
    # The bound is what was reserved: charging more could overdraw the hold.
    if outcome.credits <= step.credits_bound:
        return outcome
    log.warning("step.over_bound step_no=%d credits=%d bound=%d", step.step_no, outcome.credits, step.credits_bound)
    match outcome:
        case Done(output, records):
            return Done(output, records, step.credits_bound)
        case Failed(error, records, _, retry_after):
            return Failed(error, records, step.credits_bound, retry_after)
        case _:
            return type(outcome)(outcome.on, outcome.records, step.credits_bound)
