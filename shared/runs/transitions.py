"""What a worker asks of the run core and what it hears: transitions of runs, claims, heartbeats, deltas.

Plain values. `shared.runs.store` carries them to SQL, and `shared.runs.batch` knows how a batch of them is written.
"""

from __future__ import annotations

from dataclasses import field
from uuid import UUID

from shared.runs.engine import Event, HumanRequest
from shared.runs.models import (
    JsonObject,
    NewLog,
    NewStep,
    Records,
    RunId,
    RunView,
    Step,
    StepError,
    WaitsFor,
    record,
)
from shared.runs.status import RunStatus, StepStatus


@record
class FinishStep:
    """What becomes of a running step: an end, another try (`PENDING`) or a wait (`RUNNING` with `waits_for`).

    `available_in` is in seconds; None with `RUNNING` means until the event. `bound` is what was reserved for it. `size`
    is about how many bytes of JSON it leaves behind, if that is clean already; None: nobody has looked.
    """

    step_no: int
    attempt: int
    status: StepStatus
    output: JsonObject | None = None
    error: StepError | None = None
    credits: int = 0
    bound: int = 0
    failed: bool = False
    available_in: float | None = None
    waits_for: WaitsFor | None = None
    records: Records = field(default_factory=Records)
    request: HumanRequest | None = None
    event: Event | None = None
    size: int | None = None

    def failed_for(self, reason: StepError) -> FinishStep:
        """The step's failure in the place of what it left behind; it cost what it cost."""
        return FinishStep(
            self.step_no,
            self.attempt,
            StepStatus.FAILED,
            error=reason,
            credits=self.credits,
            bound=self.bound,
            failed=True,
            size=None if self.size is None else 0,
        )


@record
class StartStep:
    """A step to start, or to start `again` after a wait for its next try."""

    step_no: int
    effect_key: UUID
    step: NewStep
    again: bool = False

    def recorded(self) -> Step:
        """The step as it stands in the database once the start is committed."""
        new = self.step
        return Step(
            self.step_no,
            new.key,
            new.kind,
            new.name,
            StepStatus.RUNNING,
            1,
            0,
            new.max_attempts,
            new.effect,
            self.effect_key,
            new.input,
            output=None,
            error=None,
            waits_for=None,
            due_in_seconds=0.0,
            timeout_seconds=new.timeout_seconds,
            credits_bound=new.credits_bound,
            phase=new.phase,
            finished_revision=None,
        )


@record
class TakenSnapshot:
    """An engine's state after the results of the advance that carries it, before that advance's starts.

    `step_count` counts the steps started by then, `open_steps` are those of them that have not ended. `state` is
    storable.
    """

    version: int
    step_count: int
    open_steps: tuple[int, ...]
    kept_steps: tuple[int, ...]
    state: JsonObject


@record
class Advance:
    """One run's transition, all or nothing: results, starts, log lines and the run's next status (None: unchanged).

    `said` are lines of steps that were being performed. `logs` are the decision's; they are left out when its steps
    cannot be started for want of credits.
    """

    run_id: RunId
    lease_id: UUID
    revision: int
    finish: tuple[FinishStep, ...] = ()
    start: tuple[StartStep, ...] = ()
    said: tuple[NewLog, ...] = ()
    logs: tuple[NewLog, ...] = ()
    status: RunStatus | None = None
    available_in: float | None = None
    output: JsonObject | None = None
    error: StepError | None = None
    in_flight: int = 0
    snapshot: TakenSnapshot | None = None


@record
class Advanced:
    """The answer to one `Advance`. When it did not win, only `lease_id` (the present holder's) means anything."""

    run_id: RunId
    won: bool
    revision: int
    lease_id: UUID | None
    status: RunStatus | None
    stop: bool = False
    pause: bool = False
    short: bool = False
    unsent: bool = False


@record
class Beat:
    """What a heartbeat tells about a run that is still held."""

    run_id: RunId
    lease_id: UUID
    revision: int
    stop: bool
    pause: bool


@record
class Claim:
    """Runs leased to the caller, and in how many seconds the next timer is due (None: no timer)."""

    views: tuple[RunView, ...]
    next_in_seconds: float | None
    swept: int


@record
class Delta:
    """A piece of model output, `offset` characters into the step's text."""

    run_id: RunId
    lease_id: UUID
    step_no: int
    attempt: int
    offset: int
    text: str
